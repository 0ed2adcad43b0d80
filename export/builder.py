"""Build one folder, job by job: keep current files, build the others, fall back to fp32.

This module has the order of the steps and the contents of the manifest. The steps are in `to_onnx`,
`to_tensorrt` and `verify`, and the access to the folder in `output_folder`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.checkpoint import Checkpoint
from engine.digest import file_digest
from engine.errors import BuildError, EngineMismatch, ResourceError, causes, out_of_memory
from engine.lora.file import Lora
from engine.manifest import Check, Entry, File, Format, Manifest, Toolchain
from engine.netspec import NetSpec
from export import output_folder
from export.build_jobs import OPSET, BuildJob, engine_key
from export.checks import TooImprecise, Verify, judge, plan, with_checks
from export.events import Event, Step
from export.resources import ResourceMeter
from export.targets import Target
from export.to_tensorrt import FLAGS, EngineRequest, EngineResult, compile_engine

if TYPE_CHECKING:  # torch is imported when a job has something to do
    from export.torch_reference import TorchReference


@dataclass
class Builder:
    """The state of one build.

    Attributes:
        temporary: a folder inside `out` for unfinished files.
        manifest: the manifest that will be saved next; `saved` is the one on disk.
    """

    checkpoint: Checkpoint
    out: Path
    temporary: Path
    manifest: Manifest
    saved: Manifest
    target: Target
    loras: Sequence[Lora]
    capabilities: Sequence[str]
    verify: Verify
    ignore_memory: bool
    report: Callable[[Event], None]

    def run(self, jobs: Sequence[BuildJob]) -> Manifest:
        """Run every job. The manifest is saved after each file."""
        output_folder.require_room(self.out, sum(self._bytes_needed(job) for job in jobs))
        if wanted := [job for job in jobs if self._bytes_needed(job)]:
            from export.forecast import check_memory  # imports PyTorch

            check_memory(self, wanted)
        for job in jobs:
            try:
                self._job(job)
            except (MemoryError, RuntimeError, BuildError) as error:
                if not any(out_of_memory(cause) for cause in causes(error)):
                    raise
                raise ResourceError(
                    f"There is not enough memory to build the {job.label}; close other programs, "
                    "choose a smaller size or fewer --batches, or pass --verify none."
                ) from error
        if self.manifest != self.saved:
            self._save(self.manifest)
        return self.manifest

    def _job(self, job: BuildJob) -> None:
        from export.torch_reference import TorchReference

        torch_reference = TorchReference(self.checkpoint, job, self.loras)
        existing = self._entry("onnx", job)
        precision = job.spec.precision
        notes: tuple[str, ...] = (f"{job.label} {job.note}.",) if job.note else ()
        if existing and existing.key == job.key:  # it may have fallen back in the last build
            precision, notes = existing.spec.precision, existing.notes
        while True:
            spec = replace(job.spec, precision=precision)
            try:
                onnx = self._onnx(job, spec, notes, torch_reference)
                if self.target.product:
                    self._engine(job, spec, onnx, torch_reference)
                return
            except TooImprecise as error:
                if precision == "fp32":
                    raise BuildError(
                        f"The {job.label} gives wrong results in fp32 too ({error}), so the "
                        "weights are damaged or this is a bug; please report it."
                    ) from None
                notes = (f"{job.label} is too imprecise in {precision} ({error}); it is in fp32.",)
                self.report(Event("note", job.label, text=notes[0]))
                precision = "fp32"

    # -- ONNX -----------------------------------------------------------------------------------

    def _onnx(
        self, job: BuildJob, spec: NetSpec, notes: tuple[str, ...], torch_reference: TorchReference
    ) -> Entry:
        kept = self._current("onnx", job, job.key, spec)
        if kept is None:
            entry = self._export(job, spec, notes, torch_reference)
        else:
            self.report(Event("kept", job.label, text=kept.files[0].name))
            entry = replace(kept, spec=spec)
        entry = self._verified(job, entry, torch_reference)
        if entry != kept:
            self._commit(entry, fresh=kept is None)
        return entry

    def _export(
        self, job: BuildJob, spec: NetSpec, notes: tuple[str, ...], torch_reference: TorchReference
    ) -> Entry:
        import torch

        from export import to_onnx, verify

        self.report(Event("torch", job.label, "start"))
        with ResourceMeter() as loading:
            want = None if self.verify == "none" else torch_reference.outputs(1)
            network = torch_reference.network(spec.precision)
            if want is not None and spec.precision == "fp32":  # the reference is this network
                check = verify.compare("torch", "fp32", want, want)
            else:
                check = verify.check_torch(network, spec.precision, torch_reference.inputs(1), want)
        self.report(Event("torch", job.label, "done", "", loading.seconds, 0, loading.peak_bytes))
        if check.status != "passed":
            raise TooImprecise(f"torch: {check.reason}")
        self.report(Event("export", job.label, "start"))
        path = self.temporary / f"{job.stem(spec.precision)}.onnx"
        with ResourceMeter() as meter, output_folder.storage(self.out):
            files = to_onnx.export(network, spec, path, torch_reference.inputs(2))
        toolchain = Toolchain("torch.onnx", str(torch.__version__), job.weights, opset=OPSET)
        entry = Entry(
            format="onnx",
            spec=spec,
            key=job.key,
            files=_files(files),
            built_with=toolchain,
            seconds=loading.seconds + meter.seconds,
            peak_bytes=max(loading.peak_bytes, meter.peak_bytes),
            checks=(check,),
            notes=notes,
        )
        self._report_done("export", job, entry, meter.seconds, meter.peak_bytes)
        return entry

    # -- engines --------------------------------------------------------------------------------

    def _engine(
        self, job: BuildJob, spec: NetSpec, onnx: Entry, torch_reference: TorchReference
    ) -> None:
        assert self.target.product
        digests = [file.sha256 for file in onnx.files]
        key = engine_key(job, digests, self.target, spec.batch_sizes, self.capabilities, FLAGS)
        kept = self._current(self.target.product, job, key, spec)
        if kept:
            self.report(Event("kept", job.label, text=kept.files[0].name))
        else:
            torch_reference.free()
        entry = kept or self._compile(job, spec, onnx, key)
        entry = self._verified(job, entry, torch_reference)
        if entry != kept:
            self._commit(entry, fresh=kept is None)

    def _compile(self, job: BuildJob, spec: NetSpec, onnx: Entry, key: str) -> Entry:
        product = self.target.product
        assert product
        self.report(Event("compile", job.label, "start"))
        path = self.temporary / f"{job.stem(spec.precision)}.{product}.engine"
        cache = self.out / "tensorrt.timing-cache" if product == "tensorrt" else None
        request = EngineRequest(
            onnx=self.out / onnx.files[0].name,
            engine=path,
            spec=spec,
            product=product,
            compute_capabilities=tuple(self.capabilities),
            timing_cache=cache,
        )
        with output_folder.storage(self.out):
            result = compile_engine(request)
        entry = Entry(
            format=product,
            spec=spec,
            key=key,
            files=_files([path]),
            built_with=self._engine_toolchain(job, onnx, result),
            seconds=result.seconds,
            peak_bytes=result.peak_bytes,
            notes=onnx.notes,
        )
        self._report_done("compile", job, entry, result.seconds, result.peak_bytes)
        return entry

    def _engine_toolchain(self, job: BuildJob, onnx: Entry, result: EngineResult) -> Toolchain:
        capability = self.target.capability
        return Toolchain(
            product=str(self.target.product),
            version=result.version,
            weights=job.weights,
            gpu=self.target.gpu,
            compute_capabilities=(capability,) if capability else tuple(self.capabilities),
            flags=tuple(FLAGS),
            onnx=tuple(file.sha256 for file in onnx.files),
        )

    # -- verification ---------------------------------------------------------------------------

    def _verified(self, job: BuildJob, entry: Entry, torch_reference: TorchReference) -> Entry:
        """`entry` with a check of every profile. Raises TooImprecise."""
        planned = plan(entry, self.verify)
        entry = planned.entry
        if not planned.run:
            return entry
        self.report(Event("verify", job.label, "start"))
        with ResourceMeter() as meter:
            checks = self._run_checks(job, entry, planned.run, torch_reference)
        if ran := [check for check in checks if check.status != "not run"]:
            profiles = f"{len(ran)} of {len(entry.spec.batch_sizes)} profiles"
            done = (profiles, meter.seconds, 0, meter.peak_bytes)
            self.report(Event("verify", job.label, "done", *done))
        for note in judge(checks):
            self.report(Event("note", job.label, text=note))
        return with_checks(entry, [*entry.checks, *checks])

    def _run_checks(
        self, job: BuildJob, entry: Entry, batches: Sequence[int], torch_reference: TorchReference
    ) -> Sequence[Check]:
        """Run the profiles `batches` and compare them with PyTorch."""
        from export import verify

        def report(check: Check) -> None:
            outcome = check.reason or f"relative error {check.relative:.1e}"
            text = f"{check.backend}, batch {check.batch}: {outcome}"
            self.report(Event("verify", job.label, "start", text))

        folder = output_folder.beside(self.temporary, self.out, entry)
        partial = replace(entry, spec=replace(entry.spec, batch_sizes=tuple(batches)))
        most = verify.affordable(entry, batches)
        if not most:
            return verify.without_memory(partial)
        try:
            want = torch_reference.outputs(most)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return verify.without_memory(partial)
        torch_reference.free()
        return verify.check_entry(folder, partial, torch_reference.inputs(most), want, report)

    # -- the folder -----------------------------------------------------------------------------

    def _entry(self, kind: Format, job: BuildJob) -> Entry | None:
        entries = (e for e in self.manifest.entries if e.format == kind)
        return next((e for e in entries if e.spec.kind == job.spec.kind), None)

    def _current(self, kind: Format, job: BuildJob, key: str, spec: NetSpec) -> Entry | None:
        """The entry with this key and precision, if all its files are unchanged."""
        entry = self._entry(kind, job)
        if entry is None or entry.key != key or entry.spec.precision != spec.precision:
            return None
        try:
            entry.verified(self.out)
        except EngineMismatch as error:
            text = f"{str(error).partition(';')[0]}; it is built again."
            self.report(Event("note", job.label, text=text))
            return None
        return entry

    def _bytes_needed(self, job: BuildJob) -> int:
        formats: list[Format] = ["onnx", *([self.target.product] if self.target.product else [])]
        entry = self._entry("onnx", job)
        current = entry is not None and entry.key == job.key
        missing = [f for f in formats if not (current and self._entry(f, job))]
        return job.file_bytes * len(missing)

    def _commit(self, entry: Entry, *, fresh: bool) -> None:
        if fresh:
            output_folder.move(self.temporary, self.out, entry)
        self._save(self.manifest.with_entry(entry))

    def _save(self, manifest: Manifest) -> None:
        output_folder.save(self.out, self.saved, manifest)
        self.manifest = self.saved = manifest

    def _report_done(
        self, step: Step, job: BuildJob, entry: Entry, seconds: float, peak: int
    ) -> None:
        text = entry.files[0].name
        self.report(Event(step, job.label, "done", text, seconds, entry.bytes, peak))


def _files(paths: Sequence[Path]) -> tuple[File, ...]:
    return tuple(File(p.name, file_digest(p, trust_cache=False), p.stat().st_size) for p in paths)
