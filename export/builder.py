"""The build of one folder, job by job: keep what is right, make what is not, fall back to fp32.

It knows the order of the steps and what stands in the manifest. How a step is done stands in
`to_onnx`, `to_tensorrt` and `verify`; who may write, in `folder`; the doors are in `build`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.checkpoint import Checkpoint
from engine.errors import BuildError, EngineMismatch
from engine.manifest import Entry, File, Manifest, file_digest
from engine.netspec import NetSpec
from export import output_folder
from export.build_jobs import OPSET, BuildJob, engine_key
from export.events import Event, Step
from export.lora import Lora
from export.resources import ResourceMeter
from export.targets import Target
from export.to_tensorrt import FLAGS, EngineRequest, compile_engine, profile_shapes

if TYPE_CHECKING:  # torch is loaded when a job has something to do, not before
    from export.torch_reference import TorchReference


class _TooNarrow(Exception):
    """A network does not hold at a precision; the message says how that showed."""


@dataclass
class Builder:
    """Everything one build shares.

    Attributes:
        temporary: a folder inside `out` for what is not finished.
        manifest: as it will be; `saved` as it lies on the disk.
    """

    checkpoint: Checkpoint
    out: Path
    temporary: Path
    manifest: Manifest
    saved: Manifest
    target: Target
    loras: Sequence[Lora]
    capabilities: Sequence[str]
    verify: bool
    report: Callable[[Event], None]

    def run(self, jobs: Sequence[BuildJob]) -> Manifest:
        """Do every job; the manifest is saved after each file."""
        output_folder.require_room(self.out, sum(self._bytes_needed(job) for job in jobs))
        for job in jobs:
            try:
                self._job(job)
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
                    raise
                raise BuildError(
                    f"There is not enough memory to build the {job.label}; close other programs, "
                    "choose a smaller size or fewer --batches, or pass --no-verify."
                ) from error
        if self.manifest != self.saved:
            self._save(self.manifest)
        return self.manifest

    def _job(self, job: BuildJob) -> None:
        from export.torch_reference import TorchReference

        lab = TorchReference(self.checkpoint, job, self.loras)
        before = self._entry("onnx", job)
        precision = job.spec.precision
        notes: tuple[str, ...] = ()
        if before and before.key == job.key:  # it may have fallen back the last time
            precision, notes = before.spec.precision, before.notes
        while True:
            spec = replace(job.spec, precision=precision)
            try:
                onnx = self._onnx(job, spec, notes, lab)
                if self.target.product:
                    self._engine(job, spec, onnx, lab)
                return
            except _TooNarrow as why:
                if precision == "fp32":
                    raise BuildError(
                        f"The {job.label} gives wrong results in fp32 too ({why}): the weights are "
                        "damaged, or this is a defect worth reporting."
                    ) from None
                notes = (f"{job.label} does not hold in {precision} ({why}); it is in fp32.",)
                self.report(Event("note", job.label, text=notes[0]))
                precision = "fp32"

    def _onnx(
        self, job: BuildJob, spec: NetSpec, notes: tuple[str, ...], lab: TorchReference
    ) -> Entry:
        kept = self._intact("onnx", job, job.key, spec)
        if kept is None:
            entry = self._export(job, spec, notes, lab)
        elif kept.spec == spec and not self._unchecked(kept):
            self.report(Event("kept", job.label, text=kept.files[0].name))
            return kept
        else:
            self.report(Event("kept", job.label, text=kept.files[0].name))
            alive = [c for c in kept.checks if c["batch"] in spec.batch_sizes]
            entry = replace(kept, spec=spec, checks=tuple(alive))
        entry = self._verified(job, entry, lab)
        self._commit(entry, fresh=kept is None)
        return entry

    def _export(
        self, job: BuildJob, spec: NetSpec, notes: tuple[str, ...], lab: TorchReference
    ) -> Entry:
        import torch

        from export import to_onnx, verify

        self.report(Event("torch", job.label, "start"))
        with ResourceMeter() as loading:
            want = lab.want(1) if self.verify else None
            network = lab.network(spec.precision)
            row = verify.check_torch(network, spec.precision, lab.inputs(1), want)
        self.report(Event("torch", job.label, "done", "", loading.seconds, 0, loading.peak_bytes))
        if not row["ok"]:
            raise _TooNarrow(f"torch: {row['reason']}")
        self.report(Event("export", job.label, "start"))
        path = self.temporary / f"{job.stem(spec.precision)}.onnx"
        with ResourceMeter() as meter, output_folder.storage(self.out):
            files = to_onnx.export(network, spec, path, lab.inputs(2))
        entry = Entry(
            format="onnx",
            spec=spec,
            key=job.key,
            files=_files(files),
            built_with={
                "product": "torch.onnx",
                "version": str(torch.__version__),
                "opset": OPSET,
                "weights": job.weights,
            },
            seconds=loading.seconds + meter.seconds,
            peak_bytes=max(loading.peak_bytes, meter.peak_bytes),
            checks=(row,),
            notes=notes,
        )
        self._done("export", job, entry, meter.seconds, meter.peak_bytes)
        return entry

    def _engine(self, job: BuildJob, spec: NetSpec, onnx: Entry, lab: TorchReference) -> None:
        assert self.target.product
        digests = [file.sha256 for file in onnx.files]
        key = engine_key(job, digests, self.target, spec.batch_sizes, self.capabilities, FLAGS)
        kept = self._intact(self.target.product, job, key, spec)
        if kept and not self._unchecked(kept):
            self.report(Event("kept", job.label, text=kept.files[0].name))
            return
        lab.rest()
        entry = kept or self._compile(job, spec, onnx, key)
        entry = self._verified(job, entry, lab)
        self._commit(entry, fresh=kept is None)

    def _compile(self, job: BuildJob, spec: NetSpec, onnx: Entry, key: str) -> Entry:
        product = self.target.product
        assert product
        self.report(Event("compile", job.label, "start"))
        path = self.temporary / f"{job.stem(spec.precision)}.{product}.engine"
        cache = self.out / "tensorrt.timing-cache" if product == "tensorrt" else None
        with output_folder.storage(self.out):
            result = compile_engine(
                EngineRequest(
                    onnx=self.out / onnx.files[0].name,
                    engine=path,
                    spec=spec,
                    product=product,
                    compute_capabilities=tuple(self.capabilities),
                    timing_cache=cache,
                )
            )
        built_with: dict[str, Any] = {
            "product": product,
            "version": result.version,
            "gpu": self.target.gpu,
            "compute_capability": self.target.capability or list(self.capabilities),
            "flags": list(FLAGS),
            "profiles": [{n: list(s) for n, s in p.items()} for p in profile_shapes(spec)],
            "onnx": [file.sha256 for file in onnx.files],
            "weights": job.weights,
        }
        entry = Entry(
            format=product,
            spec=spec,
            key=key,
            files=_files([path]),
            built_with=built_with,
            seconds=result.seconds,
            peak_bytes=result.peak_bytes,
            notes=onnx.notes,
        )
        self._done("compile", job, entry, result.seconds, result.peak_bytes)
        return entry

    def _verified(self, job: BuildJob, entry: Entry, lab: TorchReference) -> Entry:
        """`entry` with a check of every profile that had none; raises _TooNarrow if one fails."""
        batches = self._unchecked(entry)
        if not batches:
            return entry
        from export import verify

        self.report(Event("verify", job.label, "start"))
        place = output_folder.beside(self.temporary, self.out, entry)
        partial = replace(entry, spec=replace(entry.spec, batch_sizes=batches))

        def tell(row: verify.Check) -> None:
            said = row.get("reason") or f"relative error {row['relative']:.1e}"
            text = f"{row['backend']}, batch {row['batch']}: {said}"
            self.report(Event("verify", job.label, "start", text))

        with ResourceMeter() as meter:
            most = verify.affordable(entry, batches)
            want = lab.want(most)
            lab.rest()
            rows = verify.check_entry(place, partial, lab.inputs(most), want, tell)
        self._done("verify", job, entry, meter.seconds, meter.peak_bytes, size=0)
        for row in rows:
            if row["ok"] is False:
                raise _TooNarrow(f"{row['backend']}, batch {row['batch']}: {row['reason']}")
        ran = [row for row in rows if row["ok"]]
        if not ran:
            text = f"not verified: {rows[0]['reason']}"
            self.report(Event("note", job.label, text=text))
        return replace(entry, checks=(*entry.checks, *rows))

    def _unchecked(self, entry: Entry) -> tuple[int, ...]:
        """The profiles of an entry that should be verified here and are not yet."""
        if not self.verify:
            return ()
        from importlib.util import find_spec

        if entry.format == "onnx":
            can_run, backend = find_spec("onnxruntime") is not None, "onnxruntime"
        else:
            from export.verify import runnable

            can_run, backend = runnable(entry.format), entry.format
        done = {row["batch"] for row in entry.checks if row["backend"] == backend}
        return tuple(b for b in entry.spec.batch_sizes if b not in done) if can_run else ()

    def _entry(self, kind: str, job: BuildJob) -> Entry | None:
        found = (e for e in self.manifest.entries if e.format == kind)
        return next((e for e in found if e.spec.kind == job.spec.kind), None)

    def _intact(self, kind: str, job: BuildJob, key: str, spec: NetSpec) -> Entry | None:
        """The entry with this key and precision whose files are all as they were written."""
        entry = self._entry(kind, job)
        if entry is None or entry.key != key or entry.spec.precision != spec.precision:
            return None
        try:
            entry.verified(self.out)
        except EngineMismatch as error:
            self.report(
                Event("note", job.label, text=f"{str(error).partition(';')[0]}; it is built again.")
            )
            return None
        return entry

    def _bytes_needed(self, job: BuildJob) -> int:
        formats = ["onnx", *([self.target.product] if self.target.product else [])]
        entry = self._entry("onnx", job)
        fresh = entry is not None and entry.key == job.key
        missing = [f for f in formats if not (fresh and self._entry(f, job))]
        return job.file_bytes * len(missing)

    def _commit(self, entry: Entry, *, fresh: bool) -> None:
        if fresh:
            output_folder.move(self.temporary, self.out, entry)
        self._save(self.manifest.with_entry(entry))

    def _save(self, manifest: Manifest) -> None:
        output_folder.save(self.out, self.saved, manifest)
        self.manifest = self.saved = manifest

    def _done(
        self,
        step: Step,
        job: BuildJob,
        entry: Entry,
        seconds: float,
        peak: int,
        size: int | None = None,
    ) -> None:
        written = sum(file.bytes for file in entry.files) if size is None else size
        text = entry.files[0].name if written else ""
        self.report(Event(step, job.label, "done", text, seconds, written, peak))


def _files(paths: Sequence[Path]) -> tuple[File, ...]:
    return tuple(File(p.name, file_digest(p, trust_cache=False), p.stat().st_size) for p in paths)
