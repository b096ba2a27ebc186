"""The chain of stages on every rank: lineage, resume, and skipping what is done.

Each stage has a directory: resolved.yaml, metrics.jsonl, samples.jsonl, checkpoint/, and artifact.json,
which is written last. A stage whose artifact matches its configuration and inputs is skipped; one whose
artifact does not match is an error that says what changed; one without an artifact continues from its
newest complete checkpoint.
"""

import logging
import os
import shutil
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_r1.backend.checkpoint.files import describe, step_of, tensors_digest
from megatron_r1.data.chat_template import ChatTemplate, get_template
from megatron_r1.data.sources.stage import stage_outputs
from megatron_r1.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from megatron_r1.data.trained_files import trained_files
from megatron_r1.errors import ConfigError, DataError, Interrupted
from megatron_r1.files import run_directory
from megatron_r1.files.atomic import write_whole
from megatron_r1.files.run_directory import DATA, Artifact, Begun, read_artifact, read_begun
from megatron_r1.huggingface.source import fingerprint
from megatron_r1.report.html import write_report
from megatron_r1.run import continuing, lineage
from megatron_r1.run.config import HF, RunConfig, load_run
from megatron_r1.run.lineage import digest_of
from megatron_r1.run.stage_runner import StageJournal
from megatron_r1.runtime import env_vars, heartbeat, signals, watchdog
from megatron_r1.stages.base import StageConfig
from megatron_r1.stages.context import StageContext
from megatron_r1.stages.text_scorer import TextScorer
from megatron_r1.stages.training import TrainingStage
from megatron_r1.tracking.transfer import Transfer

if TYPE_CHECKING:
    from megatron_r1.backend.policy import MegatronPolicy

log = logging.getLogger(__name__)

NO_PACKS = 8  # tokens a pack of a stage that scores nothing


def run_rank(run_dir: Path) -> None:
    """Run the whole chain on this rank of a launched run."""
    from megatron_r1.backend.parallel import process_groups

    run = load_run(run_dir / run_directory.RESOLVED).value
    watchdog.start(run.watchdog_s, run_dir / run_directory.LOGS)
    process_groups.start(run.layout, timeout_s=run.timeout_s)
    chain = Chain(run, run_dir)
    chain.forget_from(os.environ.get(env_vars.FROM_STAGE))
    for name in _asked_for(run, run_dir):
        chain.run_stage(name)
    if chain.replicas.is_main:
        print_report(run_dir)
    process_groups.stop()  # only here: after an error the others may wait in a collective for ever


def _asked_for(run: RunConfig, run_dir: Path) -> list[str]:
    """The stages to run: all of the chain, or the one that this job is for."""
    names, only = list(run.stages), os.environ.get(env_vars.ONLY_STAGE)
    if only is None:
        return names
    unfinished = [name for name in names[: names.index(only)] if read_artifact(run_dir / name) is None]
    if unfinished:
        raise ConfigError(
            f"stage {only} comes after {', '.join(unfinished)}, not finished in {run_dir}; run that first"
        )
    return [only]


def forget_from(run: RunConfig, run_dir: Path, first: str) -> None:
    """Remove what stage `first` and those after it left. ConfigError: it can't be removed."""
    names = list(run.stages)
    for name in names[names.index(first) :]:
        directory = run_dir / name
        try:
            # the artifact first: an interrupted removal must not look finished
            (directory / run_directory.ARTIFACT).unlink(missing_ok=True)
            # what is in it, not itself: it may be a link to another disk
            for path in directory.iterdir() if directory.exists() else ():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as error:
            raise ConfigError(
                f"--from {first}: {error.filename} can't be removed: {error.strerror}; remove {directory}"
            ) from None


def print_report(run_dir: Path) -> None:
    """Write report.html and say where it is; a run that is done stays so where it can't be written."""
    try:
        log.warning("report: %s", write_report(run_dir))
    except DataError as error:
        log.warning("report: not written: %s", error)


class Chain:
    """The stages of one run."""

    def __init__(self, run: RunConfig, run_dir: Path) -> None:
        from megatron_r1.backend.parallel.process_groups import MegatronReplicas

        self.run, self.run_dir = run, run_dir
        self.replicas = MegatronReplicas()
        self._tokenizers: dict[str | None, Tokenizer] = {}  # by the model's name

    def forget_from(self, first: str | None) -> None:
        """Remove what stage `first` and those after it left, so that they run again."""
        if first is not None and self.replicas.is_main:
            forget_from(self.run, self.run_dir, first)
        self.replicas.barrier()

    def run_stage(self, name: str) -> None:
        """Run one stage, or skip it if it is done."""
        from megatron_r1.backend import memory
        from megatron_r1.backend.reward_model import MegatronScorer

        run, stage = self.run.for_stage(name), self.run.stages[name]
        directory = self.run_dir / name
        for source in stage_outputs(stage):
            source.find_in(self.run_dir)
        tokenizer = self._tokenizer(run, name)
        decisive, inputs = self.run.decisive(name), self._inputs(name)
        done = read_artifact(directory)
        if done is not None:
            warnings = continuing.require_finished_so(directory, done, decisive, inputs, section=stage)
            self._warn(name, warnings)
            self._export(stage, directory, done.checkpoint, again=False)
            return
        if self.replicas.any_rank(signals.stop_requested()):  # not every kind of stage asks
            raise Interrupted(f"stage {name} has not begun; run the same command to continue")
        resumed = self._resumed(name, Begun(decisive, inputs))
        if self.replicas.is_main:
            resolved = self.run_dir / run_directory.RESOLVED
            write_whole(directory / run_directory.RESOLVED, resolved.read_bytes())
        heartbeat.beat(name, 0)
        memory.release()
        memory.reset_peak()
        weights = self._weights(stage.init) if stage.init is not None else None
        policy, state = self._policy(name, run, tokenizer, weights, resumed)
        journal = StageJournal(name, directory, policy, stage=stage, state=state, run=self.run)
        context = StageContext(
            name=name,
            seed=run.seed,
            policy=policy,
            tokenizer=tokenizer,
            template=get_template(run.template),
            journal=journal,
            directory=directory,
            weights=_weights_digest(weights),
            scorer=MegatronScorer(policy) if stage.trains_scores else None,
            reward_models=cache(self._reward_model),  # gone with the stage
            policies=cache(partial(self._beside, packs_of=stage)),
            start_step=journal.start,
            state=state,
        )
        with journal:
            # nothing is left to run where a kill came between the last checkpoint and the artifact
            metrics = stage.run(context) or journal.last_metrics
        checkpoint = journal.finish() if isinstance(stage, TrainingStage) else None
        policy.close()
        metrics = {**metrics, "time/stage_s": journal.seconds(), "memory/peak_gib": memory.peak_gib()}
        if self.replicas.is_main:
            artifact = Artifact(
                stage=name,
                kind=stage.kind,
                config=decisive,
                config_hash=digest_of(decisive),
                inputs=inputs,
                checkpoint=checkpoint,
                metrics=metrics,
                outputs=_outputs(directory),
            )
            artifact.write(directory)
        self.replicas.barrier()  # the next stage reads it on every rank
        self._export(stage, directory, checkpoint, again=True)

    def _resumed(self, name: str, now: Begun) -> Path | None:
        """The checkpoint that the stage goes on from; notes with what it is begun, or continued.

        Raises where it can't be continued as it was begun: it never begins anew by itself.
        """
        from megatron_r1.backend.checkpoint import save_load as checkpoint
        from megatron_r1.backend.parallel.collectives import on_first_rank

        directory = self.run_dir / name
        resumed, warnings = checkpoint.to_resume_from(directory / run_directory.CHECKPOINTS)
        step = None if resumed is None else step_of(resumed)
        goes_on = resumed is not None or self.run.stages[name].done_before(directory) > 0
        begun = on_first_rank(f"{directory}: not read", lambda: read_begun(directory))
        warnings = warnings or continuing.fell_behind(begun, step)
        warnings += continuing.require_begun_so(
            directory, begun, now, goes_on=goes_on, section=self.run.stages[name]
        )
        self._warn(name, warnings)
        on_first_rank(f"{directory}: not written", lambda: replace(now, saved=step).write(directory))
        return resumed

    def _warn(self, name: str, warnings: list[str]) -> None:
        if self.replicas.is_main:
            for text in warnings:
                log.warning("stage %s: %s", name, text)

    def _policy(
        self,
        name: str,
        run: RunConfig,
        tokenizer: Tokenizer,
        weights: Path | str | None,
        resumed: Path | None,
    ) -> tuple["MegatronPolicy", dict[str, Any]]:
        """The model with the stage's weights, and the state of an earlier, interrupted start."""
        stage = run.stages[name]
        policy = _build(run, stage, tokenizer)
        if resumed is None and weights is not None:
            self._start_from(policy, weights)
        if isinstance(stage, TrainingStage):
            policy.start_training(stage.optim.options())
            if resumed is None and self.replicas.is_main:
                policy.carried = trained_files(policy.carried, tokenizer, get_template(run.template))
        if resumed is not None:
            return policy, policy.load(resumed, checked=True)
        done = stage.done_before(self.run_dir / name)
        return policy, {"step": done} if done else {}

    def _start_from(self, policy: "MegatronPolicy", weights: Path | str) -> None:
        if isinstance(weights, Path):
            policy.load(weights, weights_only=True)
            return
        for text in policy.load_hugging_face(Path(weights.removeprefix(HF))):
            if self.replicas.is_main:
                log.warning(text)

    def _reward_model(self, name: str) -> TextScorer:
        """What an earlier reward_model stage made."""
        from megatron_r1.backend.reward_model import MegatronScorer

        model, template, tokenizer = self._beside(name)
        part = self.run.stages[name].part  # type: ignore[attr-defined]
        return TextScorer(MegatronScorer(model), template, tokenizer, part)

    def _beside(
        self, name: str, *, packs_of: StageConfig | None = None
    ) -> tuple["MegatronPolicy", ChatTemplate, Tokenizer]:
        """The model of an earlier stage, beside this stage's on the same ranks; without an optimizer.

        packs_of: the stage whose packs it scores; None: its own.
        """
        run = self.run.for_stage(name)
        tokenizer = self._tokenizer(run, name)
        model = _build(run, self.run.stages[name], tokenizer, packs_of=packs_of)
        self._start_from(model, self._weights(name))
        model.offload_weights()
        return model, get_template(run.template), tokenizer

    def _export(self, stage: StageConfig, directory: Path, checkpoint: str | None, *, again: bool) -> None:
        """A finished stage's result as Hugging Face's files, if it asks for them; the ranks share the work.

        again: replace what an earlier export left. Without it, only what is missing is written.
        """
        export = stage.export if isinstance(stage, TrainingStage) else None
        if export is None or checkpoint is None:
            return
        from megatron_r1.backend.hf.export_checkpoint import export_model, export_options

        out = directory / run_directory.HUGGING_FACE if export.to is None else Path(export.to)
        if self.replicas.any_rank(out.exists()) and not again:
            return
        options = export_options(dtype=export.dtype, fp8=export.fp8, max_shard_size=export.max_shard_size)
        with Transfer("export", is_main=self.replicas.is_main) as transfer:
            export_model(directory / checkpoint, out, options, progress=transfer.update, replace=True)
        if self.replicas.is_main:
            log.warning("exported to %s", out)

    def _weights(self, init: str) -> Path | str:
        """What a stage starts from: a checkpoint, hf:PATH, or what the named stage was given in turn."""
        if init.startswith(HF):
            return init
        done = read_artifact(self.run_dir / init)
        assert done is not None, f"stage {init} comes earlier in the chain"
        if done.checkpoint is not None:
            return self.run_dir / init / done.checkpoint
        before = self.run.stages[init].init
        assert before is not None, f"stage {init} has no weights"
        return self._weights(before)

    def _tokenizer(self, run: RunConfig, stage: str) -> Tokenizer:
        """Rank 0 trains it if it has to; the others read what it wrote."""
        model = self.run.model_name(stage)
        if model not in self._tokenizers:
            folder = lineage.trained_tokenizer(self.run, stage, self.run_dir).parent
            self._tokenizers[model] = self._load_tokenizer(run, model, folder)
        return self._tokenizers[model]

    def _load_tokenizer(self, run: RunConfig, model: str | None, directory: Path) -> Tokenizer:
        def load() -> Tokenizer:
            pieces = get_template(run.template).required_pieces
            return load_tokenizer(run.tokenizer, required_pieces=pieces, directory=directory)

        if self.replicas.is_main:
            directory.mkdir(parents=True, exist_ok=True)
            load()
        self.replicas.barrier()
        tokenizer = load()
        rows = run.model.shape().vocab_size
        if tokenizer.vocab_size > rows:
            owner = "model" if model is None else f"models.{model}.model"
            raise ConfigError(
                f"{owner}.vocab_size: {rows} rows can't hold the tokenizer's {tokenizer.vocab_size} pieces; "
                f"set it to {tokenizer.vocab_size} or more"
            )
        return tokenizer

    def _inputs(self, name: str) -> lineage.Inputs:
        """What this stage builds on, each with a hash: earlier stages, weights, the files that it reads."""
        from megatron_r1.backend.parallel.collectives import gather

        stage, finished = self.run.stages[name], {}
        for earlier in stage.inputs():
            finished[earlier] = read_artifact(self.run_dir / earlier)
            assert finished[earlier] is not None, f"stage {earlier} comes earlier in the chain"
        stages = {
            earlier: digest_of({"config": done.config_hash, "inputs": done.inputs})
            for earlier, done in finished.items()
        }
        here = lineage.is_first_of_machine()
        own = lineage.require_equal(
            gather(lineage.own_inputs(self.run, name, self.run_dir) if here else None)
        )
        lineage.require_outputs(self.run_dir, finished, own)
        # what it starts from comes first, for the report
        return {**{key: value for key, value in own.items() if key == stage.init}, **stages, **own}


def _build(
    run: RunConfig, stage: StageConfig, tokenizer: Tokenizer, *, packs_of: StageConfig | None = None
) -> "MegatronPolicy":
    """The model of a stage, its weights not yet read; packs_of: as in _beside."""
    packing = packs_of or stage
    from megatron_r1.backend.model.build import default_options
    from megatron_r1.backend.policy import MegatronPolicy
    from megatron_r1.backend.rollout.engine import RolloutOptions

    return MegatronPolicy(
        run.model,
        run.layout,
        default_options(
            run.precision,
            recompute=run.recompute,
            max_logits=run.max_logits,
            prompt_logits=run.prompt_logits,
        ),
        seed=run.seed,
        eos_ids=tokenizer.eos_ids,
        rollout_layout=run.sampling_layout,
        rollout_options=RolloutOptions(
            engine=run.rollout.engine,
            rows=run.rollout.max_concurrent,
            speculation=run.rollout.speculation if run.model.shape().num_mtp_layers else None,
            precision=run.rollout.precision,
            cuda_graphs=run.rollout.cuda_graphs,
        ),
        tokens_per_pack=packing.tokens_per_pack if isinstance(packing, TrainingStage) else NO_PACKS,
        score_head=stage.trains_scores,
        offload=run.offload,
    )


def _weights_digest(weights: Path | str | None) -> str:
    """A hash that stands for what a stage starts from; "" for random weights."""
    if isinstance(weights, str):
        return digest_of(fingerprint(Path(weights.removeprefix(HF))))
    return "" if weights is None else tensors_digest(weights)


def _outputs(directory: Path) -> dict[str, str]:
    """BLAKE3 of the files that a stage made for later ones."""
    files = sorted(path for path in (directory / DATA).rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): describe(path)["blake3"] for path in files}
