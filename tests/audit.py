"""Check every package in constraints.txt for known vulnerabilities, with pip-audit.

    python tests/audit.py [options of pip-audit, such as -s osv]

Ends with 0 where nothing is known, and where the service cannot be asked, which one line then says;
with 1 where a vulnerability is known; with 2 where pip-audit failed by itself.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
IGNORED: dict[str, str] = {}
"""Advisories that stop nobody, by id, with the reason: at best that no release mends them yet."""
NO_SERVICE = re.compile(
    r"^requests\.exceptions\.|ServiceError|your network may be blocking|Could not connect"
)


class NotDoneError(Exception):
    """Why the service could not be asked."""


def ask(pins: Sequence[str], options: Sequence[str]) -> list[dict[str, Any]]:
    """What pip-audit reports of these pins. Raises NotDoneError, and CalledProcessError where
    pip-audit fails for another reason."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", "/dev/stdin", "--no-deps"]
    command += ["--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    command += [word for name in IGNORED for word in ("--ignore-vuln", name)]
    done = subprocess.run(
        [*command, *options], input="\n".join(pins), capture_output=True, text=True, check=False
    )
    try:
        report: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        if NO_SERVICE.search(last):
            cause = last.split("Caused by ")[-1]
            raise NotDoneError(f"the advisory service cannot be asked: {cause[:200]}") from None
        raise subprocess.CalledProcessError(done.returncode, command, stderr=done.stderr) from None
    if report and all("skip_reason" in package for package in report):
        raise NotDoneError("the advisory service knows none of the packages: it has no advisories")
    return report


def told(report: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each vulnerability."""
    return [
        f"{package['name']} {package['version']}: {found['id']}, "
        + (f"mended in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "unmended")
        for package in report
        for found in package.get("vulns", ())
    ]


def main(options: Sequence[str]) -> int:
    """The audit; 0, 1 or 2."""
    pins = [line for line in CONSTRAINTS.read_text().splitlines() if re.match(r"[\w.-]+==", line)]
    try:
        ask(pins[:1], options)  # one request shows early whether the service can be reached
        report = ask(pins, options)
    except NotDoneError as why:
        print(f"audit: not done, since {why}")
        return 0
    except subprocess.CalledProcessError as error:
        print(f"audit: pip-audit failed\n{error.stderr}", file=sys.stderr)
        return 2
    skipped = [package["name"] for package in report if "skip_reason" in package]
    known = told(report)
    print("\n".join(["audit:" if known else "audit: no known vulnerabilities", *known]))
    print(f"{len(report)} packages asked about; unknown there: {', '.join(skipped) or 'none'}")
    for name, reason in IGNORED.items():
        print(f"ignored: {name} ({reason})")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
