"""Training: one LightningModule that wraps any method, and the run folder it leaves behind."""

import io
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as lightning
import torch
from numpy.typing import NDArray
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset

from fervor.artifacts.model_info import CARD, DESCRIPTION, WEIGHTS, ModelInfo
from fervor.config import Data, Optim, Pipeline, Run, differences
from fervor.data import datasets
from fervor.data.batch import Batch
from fervor.data.image_set import ImageSet
from fervor.data.loading import TrainingBatches, evaluation_batches, training_loader
from fervor.data.samplers import mixed_seed
from fervor.data.splits import Splits, read_splits
from fervor.errors import DataError, UsageError, counted
from fervor.evaluation.evaluate import torch_logits
from fervor.evaluation.metrics import softmax, summary
from fervor.evaluation.training_split import in_own_fold
from fervor.io import provenance
from fervor.io.atomic import check_inputs_stay, forget_partial, lock_folder, write_bytes
from fervor.io.prefetch import bounded
from fervor.methods import build, method_class
from fervor.methods.base import Method
from fervor.methods.options import method_options, with_sentences
from fervor.models import amp, distributed
from fervor.models.auxiliary import build_auxiliary
from fervor.models.image import ImageEncoder, build_image_encoder, check_encoder
from fervor.models.pickles import read_tensors
from fervor.models.text.encoders import TextEncoder, build_text_encoder
from fervor.plugins import quiet
from fervor.recipes import read_settings
from fervor.training.activity import Activity, gradient_norms, spread_rows
from fervor.training.feature_cache import plain_batches, view_batches
from fervor.training.finalize import (
    BEST,
    LAST,
    METRICS,
    best_epoch,
    described,
    finish,
    forget_state,
)
from fervor.training.optim import learning_rate, moving_average, optimizer_of
from fervor.training.prepare import prepare
from fervor.training.progress import Progress
from fervor.training.resume import (
    CONFIG,
    HISTORY,
    NOTES,
    check_data,
    check_files,
    check_resume,
    note_start,
)


logger = logging.getLogger(__name__)

LOG_EVERY = 20
"""Steps between two lines of the log."""

RESTORE_FACES = 256
"""Faces that put BatchNorm's statistics back into folded weights."""


@quiet("pytorch_lightning", logging.WARNING, module="pytorch_lightning")
def train(run: Run, *, resume: bool = False) -> Path:
    """Train one model and return its run folder; `resume` goes on after the last whole epoch.

    It says what it does to the logger "fervor.training", and shows a bar on a terminal.

    Raises:
        FervorError: a setting, data set or weight file that does not fit, or of a run that goes on
            has changed.
    """
    run = replace(run, options=with_sentences(run.options))
    check_names(run)
    devices, nodes = distributed.devices_and_nodes(run.processes)
    distributed.check_devices(devices)
    optim = amp.on_this_machine(run.optim, processes=devices * nodes, resume=resume)
    folder, original, run = run.folder, run, replace(run, optim=optim)
    trainer = _trainer(run.optim, folder, processes=run.processes)
    with lock_folder(folder) if trainer.is_global_zero else nullcontext():
        changes = open_run(original, resume=resume) if trainer.is_global_zero else {}
        _begin(run.seed, run.threads)
        networks = build_networks(run)
        logger.info("reads %s", run.data.name)
        splits = read_splits(run.pipeline, selection=run.selection)
        if resume:
            check_data(folder, splits.fingerprints)
        method = build_method(run, networks, splits)
        _check_step(method, run.optim.batch_size, trainer.world_size)
        described(run, splits, method).validate()  # rather than after the last step
        method.to(distributed.own_device())  # for what is cached before the first step
        prepare(method, splits.train, run.pipeline, precision=run.optim.precision)
        loop = Training(method, run, splits, folder, changes=changes)
        loader = training_loader(
            _batches(method, splits.train, run.pipeline),
            splits.train,
            run.pipeline,
            batch_size=run.optim.batch_size,
            workers=run.workers,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        checkpoint = folder / LAST if resume and (folder / LAST).is_file() else None
        with _interruptions(loop, checkpoint):
            trainer.fit(loop, loader, ckpt_path=checkpoint)
        distributed.part()
        if not trainer.is_global_zero:
            raise SystemExit  # this process has done its share
        loop.note_start()  # where no step was left to do
        finish(loop.method.float(), run, splits, loop.history, folder)
        _say_outcome(best_epoch(loop.history, run.selection_metric))
    return folder


def _say_outcome(best: Mapping[str, Any]) -> None:
    logger.info(
        "epoch %d is kept: accuracy %.2f %%, mean class accuracy %.2f %% on %s, the pictures "
        "that chose it and its temperature",
        *(best["epoch"] + 1, 100 * best["accuracy"], 100 * best["mean_class_accuracy"]),
        best["selected_on"],
    )


def check_names(run: Run) -> None:
    """Look whether there is all that a run names, before anything is read.

    Raises:
        UsageError: a number beyond its limits, or an unknown method, option, data set, protocol or
            image encoder.
    """
    run.check()
    method_options(run.method, run.options)
    for protocol in (run.data.protocol, run.data.train_protocol):
        datasets.protocol_of(run.data.name, protocol)
    check_encoder(run.encoder)


def _begin(seed: int, threads: int) -> None:
    """One seed for all that is drawn, and the cores that a run may use; 0 leaves these to torch."""
    if threads:
        torch.set_num_threads(bounded(threads))
    lightning.seed_everything(seed, workers=True, verbose=False)


@contextmanager
def _interruptions(loop: "Training", checkpoint: Path | None) -> Iterator[None]:
    """What ends a training from outside, as Python and fervor call it.

    Raises:
        UsageError: the checkpoint is none of this run.
        DataError: a process that prepares batches was killed.
    """
    try:
        yield
    except SystemExit:  # what Lightning makes of an interruption
        if (loop.folder / LAST).is_file():
            logger.info("stopped; go on with: fervor train --resume %s", loop.folder)
        raise KeyboardInterrupt from None
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if checkpoint is not None and not loop.begun:
            reason = " ".join(str(error).split())
            raise UsageError(
                f"{checkpoint} does not fit the run: {type(error).__name__}: {reason:.300}; remove "
                "it to begin again"
            ) from error
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a worker that prepares batches was killed: go on with --resume {loop.folder}, with "
            "fewer --workers where memory ran out"
        ) from None


def open_run(run: Run, *, resume: bool) -> dict[str, tuple[Any, Any]]:
    """Look whether a run may start, or go on, in its folder; the settings that change then.

    Raises:
        UsageError: it holds a run or a model, none that could go on, or one of other settings, or
            what the run starts from would be overwritten there.
    """
    folder = run.folder
    if not resume and (folder / CONFIG).exists():
        raise UsageError(
            f"{folder} holds a run already: go on with --resume {folder}, or name another --output"
        )
    if not resume and (folder / DESCRIPTION).exists():  # an exported one has no configuration
        raise UsageError(f"{folder} holds a model already: name another --output")
    if not resume:
        written = [folder / name for name in (WEIGHTS, CARD, BEST, LAST, *NOTES)]
        option = f"output {folder}"
        check_inputs_stay(option, written, _texts(run.resolved(), but="output"), kind="folder")
        return {}
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{folder} is no run that could go on: it has no {CONFIG}")
    if (folder / DESCRIPTION).is_file():
        forget_state(folder)  # a kill between a run's last two steps leaves it
        raise UsageError(f"{folder} holds a finished run: train again with another --output")
    changes = differences(read_settings(folder / CONFIG), run.resolved())
    check_resume(folder, changes, run.optim)
    check_files(folder, run.resolved())
    forget_partial(folder)
    return changes


def _texts(settings: Mapping[str, Any], *, but: str = "") -> Iterator[str]:
    """The settings that are texts, such as paths, however deep."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _texts(value)
        elif isinstance(value, str) and name != but:
            yield value


class Networks(NamedTuple):
    """What a method is built of that no data takes part in."""

    image: ImageEncoder
    text: TextEncoder
    auxiliary: dict[str, Any]


def build_networks(run: Run) -> Networks:
    """The run's encoders, and the frozen networks beside them, with their weights.

    Raises:
        UsageError: names or options that do not fit.
        ModelError: weights that are missing or do not fit.
    """
    names = method_class(run.method).auxiliary
    auxiliary = build_auxiliary(run.method, names, run.landmarks, run.teacher)
    image = build_image_encoder(run.encoder)
    return Networks(image, build_text_encoder(run.text.name), auxiliary)


def build_method(run: Run, networks: Networks, splits: Splits) -> Method:
    """The run's method with its starting weights."""
    logger.info(
        "%d pictures to train on, %d to choose on (%s)",
        *(len(splits.train), len(splits.selection), splits.selected_on),
    )
    kind: Any = method_class(run.method)
    options = method_options(run.method, run.options)
    encoder, text, auxiliary = networks
    method: Method = kind(encoder, text, splits.labels, options, **auxiliary)
    is_random = encoder.report is None and run.encoder.weights in ("random", "embedded")
    if "image" in method.frozen() and is_random:
        raise UsageError(
            f"method {run.method} leaves the image encoder as it came, and {run.encoder.name} is "
            f"random in part or whole with --encoder.weights {run.encoder.weights}: name others"
        )
    if run.start:
        _start_from(method, run.start, run.data)
    if encoder.has_folded_batchnorm and "image" not in method.frozen():
        generator = torch.Generator().manual_seed(run.seed)
        faces = torch.randperm(len(splits.train), generator=generator)[:RESTORE_FACES]
        sample = splits.train.subset(faces)
        images = [batch.images() for batch in evaluation_batches(sample, size=run.encoder.size)]
        encoder.restore_batchnorm(torch.cat(images))
    logger.info(
        "trains {trainable:,} of {all:,} parameters, {trainable_bytes:,} bytes".format(
            **build.sizes(method)
        )
    )
    return method


def _check_step(method: Method, batch_size: int, world: int) -> None:
    """Look whether each process sees as many images at once as the image encoder needs.

    Raises:
        UsageError: they are fewer.
    """
    count = batch_size // world * (2 if method.pairs else 1)
    fewest = method.image.fewest_images
    if count < fewest and "image" not in method.frozen():
        raise UsageError(
            f"--optim.batch_size {batch_size}: expected at least {fewest * world} with "
            f"{counted(world, 'process')}: this image encoder cannot train on one picture at a time"
        )


def _batches(method: Method, images: ImageSet, pipeline: Pipeline) -> Dataset[Batch]:
    """Augmented anew each time, or from fixed views whose frozen layers are cached."""
    if pipeline.data.views:
        return view_batches(method, images, pipeline)
    return TrainingBatches(images, pipeline, pairs=method.pairs)


def _start_from(method: Method, model: str, data: Data) -> None:
    """Take over a model's weights; the new label set keeps its own text vectors.

    Raises:
        ModelError: the model is of another kind.
        UsageError: it was trained in another fold of the same data set.
    """
    info = ModelInfo.read(model)
    in_own_fold(info, data)
    tensors = build.tensors_of(info)
    learned = {name for name, _ in method.named_parameters()}
    for name, module in method.named_modules():
        if isinstance(module, _NormBase):  # its statistics belong to the layer before it
            learned |= {f"{name}.{buffer}" for buffer, _ in module.named_buffers(recurse=False)}
    constant = {
        key: value
        for key, value in build.own_state(method).items()
        if key not in learned and not key.startswith("image.")
    }
    build.fill(method, {**tensors, **constant}, info.folder / WEIGHTS)


class Training(lightning.LightningModule):
    """Any method under Lightning: steps, schedule, moving average, choice of the epoch."""

    def __init__(
        self,
        method: Method,
        run: Run,
        splits: Splits,
        folder: Path,
        *,
        changes: Mapping[str, tuple[Any, Any]],
    ) -> None:
        super().__init__()
        self.method = method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.run = run
        self.splits = splits
        self.folder = folder
        self.history: list[dict[str, Any]] = []
        self._changes: Mapping[str, tuple[Any, Any]] | None = changes
        self._losses: list[Tensor] = []  # of the steps since `_check_losses`
        self.begun = False
        faces = splits.selection.subset(spread_rows(len(splits.selection)))
        self._activity = Activity(folder, next(iter(plain_batches(method, faces, run.pipeline))))
        self._towers = method.frozen()
        self.automatic_optimization = not run.optim.sam
        self.average: AveragedModel | None = None
        if run.optim.average:
            self.average = AveragedModel(
                method, multi_avg_fn=moving_average(run.optim.average), use_buffers=True
            ).requires_grad_(False)

    def kept(self) -> Method:
        """The weights that are evaluated and kept: the moving average where there is one."""
        return self.method if self.average is None else self.average.module  # type: ignore[return-value]

    def configure_optimizers(self) -> Any:
        """The optimiser over the method's groups, its rates set anew for each step."""
        optim = self.run.optim
        optimizer = optimizer_of(self.method.parameter_groups(optim.learning_rate), optim)
        steps = int(self.trainer.estimated_stepping_batches) // optim.epochs
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(step, steps, optim)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Over all parameters, or each group by itself; with SAM the step clips itself."""
        if gradient_clip_val and self.run.optim.clip_each:
            for group in optimizer.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], gradient_clip_val)
        elif gradient_clip_val:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_start(self) -> None:
        """Measure what the parts do before the first step."""
        self._activity.begin(self.method)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Log each part's gradient, before it is clipped; with SAM it is clipped already here."""
        if self.automatic_optimization:
            self._log_gradients()

    def _log_gradients(self) -> None:
        if self.global_step == 0 or (self.global_step + 1) % LOG_EVERY == 0:
            norms = gradient_norms(self.method)
            named = {f"gradient/{part}": norm for part, norm in norms.items()}
            size = self.run.optim.batch_size
            self.log_dict(named, on_step=True, on_epoch=True, batch_size=size)

    def on_train_epoch_start(self) -> None:
        """Whatever a module draws (drop-path) is a function of seed and epoch."""
        self.begun = True
        self._losses.clear()
        torch.manual_seed(mixed_seed(self.run.seed, self.current_epoch))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The method's objective on one batch; with SAM, both passes and the step."""
        batch = batch.to(self.device)
        if self.automatic_optimization:
            loss = self._logged(self.method.losses(batch), len(batch.label))
        else:
            loss = self._sharpness_aware_step(self.method.with_frozen(batch))
        self._losses.append(loss.detach())
        return loss

    def _logged(self, losses: Mapping[str, Tensor], count: int) -> Tensor:
        """The loss among them, all of them logged as means over `count` images."""
        for name, value in losses.items():
            self.log(
                f"train/{name}",
                value,
                prog_bar=name == "loss",
                on_step=True,
                on_epoch=True,
                batch_size=count,
            )
        return losses["loss"]

    def _sharpness_aware_step(self, batch: Batch) -> Tensor:
        """The gradient at the weights leads to worse ones nearby, whose gradient is the step's."""
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()

        def at_the_worse_weights() -> None:
            self.manual_backward(self.method.losses(batch)["loss"])
            self._log_gradients()
            self.configure_gradient_clipping(optimizer, self.run.optim.clip, "norm")

        optimizer.zero_grad()
        loss = self._logged(self.method.losses(batch), len(batch.label))
        self.manual_backward(loss)
        optimizer.step(at_the_worse_weights)
        scheduler.step()
        return loss.detach()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        """Move the average; what has made a step is a run, and its folder says so.

        Raises:
            UsageError: a loss is not finite.
        """
        self.note_start()
        # elsewhere each look at a loss waits for the device, or for the other processes
        every = 1 if self.device.type == "cpu" and distributed.world() == 1 else LOG_EVERY
        if (batch_index + 1) % every == 0:
            self._check_losses(batch_index + 1)
        if self.average is not None:
            self.average.update_parameters(self.method)

    def _check_losses(self, steps: int) -> None:
        """Look at the losses since the last look, after so many steps of the epoch.

        Raises:
            UsageError: one is not finite, in this process or another.
        """
        losses = torch.stack(self._losses)
        self._losses.clear()
        wrong = torch.nonzero(~losses.isfinite()).flatten().tolist()
        own = [steps - len(losses) + place + 1 for place in wrong[:1]]
        everywhere = np.concatenate(distributed.all_gather_arrays(np.array(own, np.int64)))
        if len(everywhere):
            raise self._diverged(f"step {everywhere.min()}: the loss is")

    def _diverged(self, what: str) -> UsageError:
        return UsageError(
            f"epoch {self.current_epoch + 1}, {what} not finite: train anew with another "
            "--output and an --optim.learning_rate below "
            f"{self.run.optim.learning_rate:g}"
        )

    def note_start(self) -> None:
        """Write the configuration once, when all checks lie behind."""
        if self._changes is not None and self.trainer.is_global_zero:
            prints = self.splits.fingerprints
            note_start(self.folder, self.run.resolved(), self._changes, prints)
        self._changes = None

    def on_train_epoch_end(self) -> None:
        """Measure on the selection split; keep the weights if they are the best so far.

        Raises:
            UsageError: a loss or an answer is not finite.
        """
        if self._losses:
            self._check_losses(self.trainer.num_training_batches)  # type: ignore[arg-type]
        distributed.align_buffers(self.method)  # BatchNorm's statistics are each process's own
        if self.average is not None:
            distributed.align_buffers(self.average)
        label = self.splits.selection.label.numpy()
        logits = self._selection_logits()
        if not np.isfinite(logits).all():
            raise self._diverged(f"after its last step: an answer on {self.splits.selected_on} is")
        figures = summary(softmax(logits), label, self.splits.labels)
        row = {
            "epoch": self.current_epoch,
            "selected_on": self.splits.selected_on,
            **{name: figures[name] for name in METRICS},
        }
        split = "test" if self.run.selection == "paper" else "valid"
        for name in METRICS:
            self.log(f"{split}/{name}", row[name], prog_bar=name == "accuracy")
        self.history.append(row)
        if self.trainer.is_global_zero:
            if best_epoch(self.history, self.run.selection_metric) is row:
                build.save_weights(self.folder / BEST, _state(self.kept()))
            provenance.write_text(self.folder / HISTORY, json.dumps(self.history, indent=1) + "\n")
            self._activity.epoch(self.method, self.current_epoch)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Progress):
                callback.measured(self.trainer, row)
        self._keep_last()

    def _selection_logits(self) -> NDArray[np.float32]:
        """Logits [n c] on the selection split, each process's share of it put together."""
        images = self.splits.selection
        shard = images.subset(distributed.shard(len(images)))
        own = np.empty((0, len(self.splits.labels)), np.float32)
        if len(shard):
            batches = plain_batches(self.kept(), shard, self.run.pipeline)
            own = torch_logits(self.kept(), batches)
        return np.concatenate(distributed.all_gather_arrays(own))

    def _keep_last(self) -> None:
        """The whole state, for `--resume`; a callback would save it before the epoch's figures."""
        self.trainer.save_checkpoint(self.folder / LAST)

    def on_save_checkpoint(self, saved: dict[str, Any]) -> None:
        """The choice so far goes on with a resumed run."""
        saved["history"] = self.history
        saved["beginning"] = self._activity.beginning
        for key in self._frozen_keys(saved["state_dict"]):
            del saved["state_dict"][key]

    def _frozen_keys(self, state: dict[str, Tensor]) -> list[str]:
        """Names of the frozen towers' tensors, the moving average's too: no epoch changes them."""
        towers = tuple(
            f"{root}.{tower}." for root in ("method", "average.module") for tower in self._towers
        )
        return [key for key in state if key.startswith(towers)]

    def on_load_checkpoint(self, saved: dict[str, Any]) -> None:
        """Take the choice so far up again.

        Raises:
            ValueError: the state is none that a run leaves.
        """
        for row in saved["history"]:
            if not all(isinstance(row[name], float) for name in METRICS):
                raise ValueError("its history has no figures")
        if len(saved["optimizer_states"]) != 1:
            raise ValueError(f"it has {len(saved['optimizer_states'])} optimisers, expected 1")
        beginning = saved.get("beginning", {})  # older runs have not kept it
        if not all(isinstance(tensor, Tensor) for tensor in beginning.values()):
            raise ValueError("the beginning of its parts is no tensor")
        self._activity.beginning = dict(beginning)
        self.history = saved["history"]
        own = self.state_dict()
        saved["state_dict"] |= {key: own[key] for key in self._frozen_keys(own)}


class _Whole(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, into its own folder; reads it without unpickling."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        """Encoded in memory, as Lightning does; its own way leads over the folder of temporaries"""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(Path(path), buffer.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Tensors and plain containers alone: a run folder may come from a stranger.

        Raises:
            UsageError: it is damaged.
        """
        try:
            checkpoint: dict[str, Any] = read_tensors(Path(path))
        except OSError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UsageError(f"{path} is damaged: {reason}; remove it to begin again") from error
        return checkpoint


def _state(method: Method) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in build.own_state(method).items()}


def _trainer(optim: Optim, folder: Path, *, processes: int) -> lightning.Trainer:
    earlier = len(list(folder.glob("logs*")))
    version = f"logs-{earlier + 1}" if earlier else "logs"  # a resumed run keeps its first logs
    devices, nodes = distributed.devices_and_nodes(processes)
    return lightning.Trainer(
        max_epochs=optim.epochs,
        accelerator="auto",
        devices=devices,
        num_nodes=nodes,
        strategy="ddp_find_unused_parameters_true" if devices * nodes > 1 else "auto",
        precision="bf16-mixed" if optim.precision == "bf16" else "32-true",
        # with SAM the step clips itself
        gradient_clip_val=None if optim.sam else optim.clip or None,
        logger=[
            CSVLogger(folder, name="", version=version),
            TensorBoardLogger(folder, name="", version=version),
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[Progress(optim.batch_size)],
        enable_model_summary=False,
        log_every_n_steps=LOG_EVERY,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        plugins=[_Whole()],
    )
