"""The settings of a run: frozen dataclasses that the command line and the recipes fill.

One YAML recipe is one `Run`. A part is held by its one name (`plugins.stored`), however it was
given, so that names can be compared. Every default names its source: (paper) and (released code)
are of KE-FER (arXiv 2409.08598); (ours) is this project's choice.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fervor import plugins
from fervor.errors import UsageError


Target = Literal["majority", "probability", "cross_entropy"]
Selection = Literal["honest", "paper"]
SelectionMetric = Literal["accuracy", "negative_log_likelihood"]
Sampling = Literal["plain", "imbalance", "balanced"]
Precision = Literal["bf16", "fp32"]

RENAMED = {
    "data.epoch_share": "data.epoch_fraction",
    "data.teachers_share": "data.teachers_weight",
    "optim.rate": "optim.learning_rate",
    "optim.warmup_rate": "optim.warmup_learning_rate",
}
"""Settings of version 0.1 by their names since."""


@dataclass(frozen=True)
class Data:
    """Which pictures, read under which protocol.

    Attributes:
        name: data set: ferplus, rafdb, affectnet, ckplus, folder (one sub-folder per expression) or
            csv (a table of pictures).
        root: its folder.
        protocol: the rule that turns annotations into labels; empty for the data set's default.
        train_protocol: the rule for the training split where it is another one; empty for the same
            (ours: ferplus's argmax8 adds the pictures without a majority, with their votes).
        annotations: label source or kind of pictures where a data set has several (ferplus:
            label.csv, fer2013new.csv, fer2013.csv; rafdb: aligned, original; affectnet: original,
            2021; csv: the table's name); empty for the first that is found.
        fold: 1 to 10: test on that tenth of the subjects, train on the others (ckplus, csv with
            groups); 0 for the usual splits.
        target: what the loss compares with (names of FERPlus's own training code): the majority's
            class, a class drawn from the votes anew each epoch, or the distribution of the votes.
        aligned: folder that `fervor data align` wrote; its pictures stand in for the data set's.
        faces: precropped = each picture is a face, or its annotated box is; largest = find, align
            and crop it first.
        margin: added on each side of an annotated box, as a share of its longer side (ours: 0).
        validation: share of train held out where the data set has no validation split (ours).
        subset: few-shot:4 = four training pictures of each class and at most four to choose on,
            drawn by the seed (CoOp); empty for all.
        classes: expressions, separated by commas, that are trained on, chosen on and tested; empty
            for all of the protocol's.
        label_noise: share of each class's training labels that others replace evenly (SCN).
        priors: data set in whose proportions of classes training pictures are drawn (rafdb; ours);
            empty for those that the pictures have.
        sampling: plain = every picture once an epoch; imbalance = drawn with replacement, weighted
            by 1 / pictures of its class (SCN's for AffectNet); balanced = equally many of each
            class (DCS's for AffectNet).
        epoch_fraction: pictures of an epoch as a share of the split (DCS on AffectNet: 0.125).
        views: fixed augmented views per picture, taken in turn by epoch, their frozen layers
            computed once and cached; 0 draws anew each time.
        teachers: file of stored logits (tools/weights/store_logits.py) that are mixed into the
            targets; empty for the target alone (ours).
        teachers_weight: of the mixed target that is the teachers' (ours).
        teachers_temperature: that the stored logits are divided by before their softmax (ours).
        cache: folder of decoded pictures and of cached views (2 kB to 200 kB a picture and view),
            read by all runs; empty decodes into memory each time and has no views.
    """

    name: str = "ferplus"
    root: str = ""
    protocol: str = ""
    train_protocol: str = ""
    annotations: str = ""
    fold: int = 0
    target: Target = "majority"
    aligned: str = ""
    faces: Literal["precropped", "largest"] = "precropped"
    margin: float = 0.0
    validation: float = 0.1
    subset: str = ""
    classes: str = ""
    label_noise: float = 0.0
    priors: str = ""
    sampling: Sampling = "plain"
    epoch_fraction: float = 1.0
    views: int = 0
    teachers: str = ""
    teachers_weight: float = 0.5
    teachers_temperature: float = 1.0
    cache: str = "runs/cache"

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", plugins.stored("datasets", self.name))


@dataclass(frozen=True)
class Augment:
    """Random changes of a training picture; each strength 0 switches its change off.

    Attributes:
        flip: probability of mirroring (paper: 0.5).
        rotation: largest angle in degrees (paper: rotation is named, its angle is not).
        scale: largest zoom in or out, as a share: 0.15 means 1/1.15 to 1.15 (ours).
        shift: largest shift as a share of the width (ours).
        crop_padding: pixels of padding before a random crop of about half of the pictures (released
            code: 4).
        crop_area: largest share of the area that a random crop leaves out before it is resized
            back, with sides of 3:4 to 4:3 (MPA-FER; 0.2 by a public re-implementation).
        erase: probability of erasing a rectangle (paper).
        erase_area: largest erased share of the picture, above 0.02, which is the smallest (released
            code: 0.25); 0 erases nothing.
        brightness: largest additive change, of a range of 1 (ours).
        contrast: largest relative change of contrast, about the picture's mean (ours).
        gamma: largest exponent, 1/(1+gamma) to 1+gamma (ours).
        blur: probability of a Gaussian blur (ours).
        mixup: parameter of the Beta distribution that mixes pairs and their targets (ours).
        low_resolution: probability of shrinking the stored picture and enlarging it again (ours).
        low_resolution_side: fewest rows that it is shrunk to (ours).
        jpeg: probability of JPEG's loss at a quality of 20 to 90, on the stored picture (ours).
        sharpen: probability of sharpening the stored picture (ours).
        colour: largest relative change of each colour channel, before a network turns pictures to
            luminance (ours).
        jitter: standard deviation of the errors of a detector's five points, as a share of the
            width; the crop is laid anew on the points with their errors (ours).
        partial: probability of cutting off one side of the picture, whose edge is then repeated,
            as where a photograph ends (ours).
        partial_area: largest share of the picture that is cut off (ours).
        occlude: probability of covering a part of the face (eyes, nose, mouth, a half), where the
            packaged landmark network finds it (ours).
    """

    flip: float = 0.5
    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    crop_padding: int = 4
    crop_area: float = 0.0
    erase: float = 0.5
    erase_area: float = 0.25
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    blur: float = 0.0
    mixup: float = 0.0
    low_resolution: float = 0.0
    low_resolution_side: int = 16
    jpeg: float = 0.0
    sharpen: float = 0.0
    colour: float = 0.0
    jitter: float = 0.0
    partial: float = 0.0
    partial_area: float = 0.3
    occlude: float = 0.0


@dataclass(frozen=True)
class Encoder:
    """The image encoder.

    Attributes:
        name: face-mobilenet, face-resnet, vlm, ir50, mobilefacenet, resnet18, swin-t-112, swin-t,
            vit-b16, clip, align, blip.
        weights: where to start: empty for the packaged weights of face nets and vlm (random
            elsewhere), random, a local folder or hub name of transformers, or a state dict
            (.safetensors, .pt, .pth); for vlm also embedded: the embedded classifier's trunk.
        size: width and height in pixels that pictures are resized to.
        crop: side in pixels of the crop of a face that was found in a photograph, before it is
            resized to `size`, in training and prediction alike; 0 for FERPlus's 48, and where a run
            reads crops for their side (ours).
        grey: turn pictures to luminance inside the network (for models trained on grey ones).
        last_stride: 1 keeps face-mobilenet's last map at 1/16 of the input; 2 is the original.
        frozen_blocks: blocks of a face-pretrained trunk, from the input on, that stay as they are.
        mirror: predict from the mean over the picture and its mirror image, at twice the cost;
            training is the same with and without (face nets).
    """

    name: str = "face-mobilenet"
    weights: str = ""
    size: int = 112
    crop: int = 0
    grey: bool = False
    last_stride: int = 1
    frozen_blocks: int = 0
    mirror: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", plugins.stored("image_encoders", self.name))


@dataclass(frozen=True)
class Text:
    """The text encoder, frozen; prompts in front of its words may learn (mpa, ke).

    Attributes:
        name: minilm-vectors (stored with the package), minilm, vlm, or a local folder or hub name
            of a CLIP, ALIGN or BLIP model; for control rows simplex (equal angles), or
            shuffled:NAME (the vectors of NAME, each given to another expression).
    """

    name: str = "minilm-vectors"

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", plugins.stored("text_encoders", self.name))


@dataclass(frozen=True)
class Landmarks:
    """The frozen landmark network beside the image encoder (method lacovl).

    Attributes:
        name: mobilefacenet; none = without landmarks, each query comes from the image itself.
        weights: empty for the packaged ones, random, or a state dict (.safetensors, .pt, .pth,
            .pth.tar).
    """

    name: str = "none"
    weights: str = ""


@dataclass(frozen=True)
class Teacher:
    """The frozen image tower of a vision-language model beside the image encoder (method lacovl).

    Attributes:
        name: an image encoder, clip for the published method; none = without it and its losses.
        weights: as of `encoder`.
        size: width and height in pixels of the pictures that it sees.
    """

    name: str = "none"
    weights: str = ""
    size: int = 224

    def __post_init__(self) -> None:
        if self.name != "none":
            object.__setattr__(self, "name", plugins.stored("image_encoders", self.name))


@dataclass(frozen=True)
class Optim:
    """The optimiser and its schedule.

    Attributes:
        name: sgd, stochastic gradient descent (paper); adam (DCS, which LaCoVL-FER builds on); or
            adamw, whose momentum is its first beta (for transformers from scratch; ours).
        epochs: passes over the training split (paper: 50).
        batch_size: pictures a step (paper: 64); the last, smaller batch is dropped.
        learning_rate: (paper: 2e-3).
        momentum: of sgd (paper: 0.9), and the first beta of adamw; adam has its own moments.
        nesterov: look-ahead momentum (ours; the paper's is plain).
        weight_decay: (paper: 5e-4)
        decay_all: decay biases and normalisation too (released code); off leaves them out.
        sam: radius of sharpness-aware minimisation, which takes two passes a step (DCS: 0.05);
            0 = off.
        schedule: epoch = cosine stepped each epoch (released code); step = each batch; exponential
            = times `gamma` after each epoch (DCS).
        gamma: of the exponential schedule (DCS: 0.98).
        warmup_epochs: epochs before the cosine (released code: 1).
        warmup_learning_rate: constant rate of the warm-up (released code: 1e-4); 0 rises linearly.
        average: decay of the moving average of the weights that is evaluated and kept; 0 = off.
        clip: largest gradient norm; 0 = off.
        clip_each: clip every group of parameters by itself (ours: a prompt with a large gradient
            does not still one with a small one).
        precision: bf16 (autocast, weights stay fp32; fp32 where the machine would emulate it) or
            fp32.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 2e-3
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay_all: bool = True
    sam: float = 0.0
    schedule: Literal["epoch", "step", "exponential"] = "epoch"
    gamma: float = 0.98
    warmup_epochs: int = 1
    warmup_learning_rate: float = 1e-4
    average: float = 0.0
    clip: float = 0.0
    clip_each: bool = False
    precision: Precision = "fp32"


@dataclass(frozen=True)
class Pipeline:
    """How images become batches: the part of a run that reads, crops, resizes and augments them.

    Attributes:
        data: which images.
        augment: how those to train on vary.
        encoder: whose input they are resized to, and which of its layers are cached.
        seed: of their order and augmentation.
    """

    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    encoder: Encoder = field(default_factory=Encoder)
    seed: int = 0


READING = (
    *("name", "root", "protocol", "annotations", "fold", "aligned", "faces", "margin"),
    *("classes", "cache"),
)
"""Settings of `Data` that say which images are read, and how; the others concern training alone."""

SIDE, COUNT, OPTION = 2048, 1_000_000, 16_384
"""Largest side in pixels, largest number of anything, largest whole number among the options."""

LEAST_SIDE = 8
"""Smallest side of a crop, and of a model's input, in pixels."""

HIGHEST = {
    "encoder.size": SIDE,
    "encoder.crop": SIDE,
    "teacher.size": SIDE,
    "data.margin": 100,
    "optim.batch_size": COUNT,
    "optim.epochs": COUNT,
    "data.views": 1000,
    "workers": 1024,
    "processes": 1024,
    "threads": 1024,
    "seed": 2**32 - 1,  # numpy's own
}

LOWEST: dict[str, float] = {
    "encoder.size": 1,
    "encoder.crop": 0,
    "encoder.frozen_blocks": 0,
    "teacher.size": 1,
    "optim.batch_size": 1,
    "optim.epochs": 1,
    "optim.warmup_epochs": 0,
    **dict.fromkeys(
        (
            "optim.learning_rate",
            "optim.warmup_learning_rate",
            "optim.momentum",
            "optim.weight_decay",
            "optim.sam",
        ),
        0,
    ),
    **dict.fromkeys(("optim.gamma", "optim.average", "optim.clip", "data.margin", "data.fold"), 0),
    **dict.fromkeys(("data.views", "workers", "threads", "seed"), 0),
    "processes": 1,
}
"""Smallest values that a run can have."""

FRACTIONS = ("data.validation", "optim.average", "optim.momentum")
"""Parts of one: none may exceed it."""

AUGMENT_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("flip", "erase", "blur", "low_resolution", "jpeg", "sharpen"), (0, 1)),
    **dict.fromkeys(("partial", "occlude"), (0, 1)),
    **dict.fromkeys(("shift", "crop_area", "erase_area", "partial_area", "jitter"), (0, 1)),
    **dict.fromkeys(("brightness", "contrast", "colour"), (0, 1)),
    **dict.fromkeys(("scale", "gamma"), (0, 10)),
    "rotation": (0, 180),
    "crop_padding": (0, SIDE),
    "low_resolution_side": (1, SIDE),
    "mixup": (0, 1000),
}
"""The least and the largest value of every setting of `Augment`."""

LEAST_ERASED = 0.02
"""Smallest share of a picture that is erased; the largest, `augment.erase_area`, is above it."""


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        method: ke, mpa, lacovl, vlm or classifier.
        data: which pictures.
        augment: how training pictures vary.
        encoder: the image encoder.
        text: the text encoder.
        landmarks: the landmark network, for methods that take one.
        teacher: the frozen image tower, for methods that take one.
        optim: optimiser and schedule.
        options: the method's own options, by name.
        selection: honest chooses the epoch on the validation split; paper on the test split, as
            published results do, and says so in every file it writes.
        selection_metric: what tells epochs apart there: the highest accuracy (paper), or the lowest
            negative log likelihood (ours), which is less a matter of chance where epochs are some
            images apart.
        seed: seed of weights, order and augmentation.
        threads: CPU threads; 0 leaves the choice to torch.
        workers: processes that prepare batches; 0 = none beside the training itself.
        processes: processes of this machine that share each batch, one per GPU where there are
            such; what torchrun starts, on one machine or several, counts itself.
        start: model folder whose weights the run starts from; embedded for the shipped model.
        output: run folder; empty for runs/<name>-seed<seed>.
        name: what results are filed under; the command line fills in the recipe's name.
        profile: name of a profile that makes rows comparable (evidence); a remark, no setting.
    """

    method: str = "ke"
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    encoder: Encoder = field(default_factory=Encoder)
    text: Text = field(default_factory=Text)
    landmarks: Landmarks = field(default_factory=Landmarks)
    teacher: Teacher = field(default_factory=Teacher)
    optim: Optim = field(default_factory=Optim)
    options: dict[str, Any] = field(default_factory=dict)
    selection: Selection = "honest"
    selection_metric: SelectionMetric = "accuracy"
    seed: int = 0
    threads: int = 0
    workers: int = 0
    processes: int = 1
    start: str = ""
    output: str = ""
    name: str = ""
    profile: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", plugins.stored("methods", self.method))

    @property
    def title(self) -> str:
        """What it is filed under."""
        return self.name or plugins.title(self.method)

    @property
    def folder(self) -> Path:
        """Where its files go."""
        return Path(self.output or f"runs/{self.title}-seed{self.seed}")

    @property
    def pipeline(self) -> Pipeline:
        """The part of it that makes batches."""
        return Pipeline(self.data, self.augment, self.encoder, self.seed)

    def check(self) -> None:
        """Refuse what no machine could do, before memory is asked for.

        Raises:
            UsageError: a number beyond its limits.
        """

        def setting(name: str) -> Any:
            value: Any = self
            for part in name.split("."):
                value = getattr(value, part)
            return value

        for name, limit in HIGHEST.items():
            if setting(name) > limit:
                raise UsageError(f"--{name} {setting(name)}: expected at most {limit:,}")
        for name, least in LOWEST.items():
            if not setting(name) >= least:
                raise UsageError(f"--{name} {setting(name)}: expected at least {least}")
        for name in FRACTIONS:
            if not 0 <= setting(name) <= 1:
                raise UsageError(f"--{name} {setting(name)}: expected a share, 0 to 1")
        for name, (lowest, highest) in AUGMENT_RANGES.items():
            value = getattr(self.augment, name)
            if not lowest <= value <= highest:
                raise UsageError(f"--augment.{name} {value}: expected {lowest} to {highest}")
        if 0 < self.augment.erase_area <= LEAST_ERASED:
            raise UsageError(
                f"--augment.erase_area {self.augment.erase_area}: expected 0, or above "
                f"{LEAST_ERASED} up to 1"
            )
        if not self.optim.learning_rate:
            raise UsageError(
                f"--optim.learning_rate {self.optim.learning_rate}: expected a number above 0"
            )
        for name, value in self.options.items():
            if isinstance(value, int) and abs(value) > OPTION:
                raise UsageError(f"--options.{name} {value}: expected at most {OPTION:,}")
        if 0 < self.encoder.crop < LEAST_SIDE:
            raise UsageError(
                f"--encoder.crop {self.encoder.crop}: expected 0 or at least {LEAST_SIDE}"
            )
        if self.optim.name == "adamw" and self.optim.momentum == 1:
            raise UsageError("--optim.momentum 1.0: expected less than 1 for adamw's first beta")
        if self.optim.name == "sgd" and self.optim.nesterov and not self.optim.momentum:
            raise UsageError("--optim.nesterov true: expected --optim.momentum above 0 with it")
        if self.data.views and not self.data.cache:
            raise UsageError("--data.views needs a folder for its maps: name one with --data.cache")

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Run":
        """A run of a recipe's plain values; what they lack is as by default.

        Stored values of version 0.1 are understood, too.
        """
        plain, values = cls(), with_new_names(values)
        settings: dict[str, Any] = {}
        for setting in fields(cls):
            if setting.name in values:
                default, value = getattr(plain, setting.name), values[setting.name]
                nested = is_dataclass(default) and not isinstance(default, type)
                settings[setting.name] = replace(default, **value) if nested else value
        return replace(plain, **settings)

    def with_clip(self, clip: str) -> "Run":
        """The run with one CLIP model, a name or a folder, wherever it takes a tower of CLIP's.

        Raises:
            UsageError: it takes none.
        """
        run = self
        text = run.text.name
        if not plugins.known("text_encoders", text) and not any(
            other in text.lower() for other in ("minilm", "vlm", "align", "blip")
        ):
            run = replace(run, text=replace(run.text, name=clip))
        if run.encoder.name == "clip":
            run = replace(run, encoder=replace(run.encoder, weights=clip))
        if run.teacher.name == "clip":
            run = replace(run, teacher=replace(run.teacher, weights=clip))
        if run is self:
            raise UsageError(
                f"--clip {clip}: neither encoder {run.encoder.name} nor text {run.text.name} is a "
                "tower of CLIP; choose them with --encoder.name clip or --text.name"
            )
        return run

    def parts(self) -> tuple[str, ...]:
        """What it names that another package may bring."""
        networks = (self.data, self.encoder, self.teacher, self.text)
        return (self.method, *(network.name for network in networks))

    def resolved(self) -> dict[str, Any]:
        """The whole configuration as plain values, for config.yaml."""
        return asdict(self)

    def published(self) -> dict[str, Any]:
        """The same for model.json and results: where files and folders lie is nobody's business.

        Folders of images and runs are left out; what else lies on the machine, such as weights,
        models and descriptions, is named without the folder that holds it.
        """
        data = replace(self.data, root="", aligned="")
        plain: dict[str, Any] = published(replace(self, output="", data=data).resolved())
        plain["data"]["cache"] = Data().cache
        return {**plain, "name": self.name}  # a recipe's, in which "/" is no folder


def published_name(value: str) -> str:
    """A file's or folder's own name; anything that is none on this machine stays as it is."""
    path = value.removeprefix(plugins.SHUFFLED)
    try:
        lies_here = bool(path) and Path(path).exists()
    except (OSError, ValueError):  # a sentence, longer than a name may be
        lies_here = False
    return value.removesuffix(path) + Path(path).name if lies_here else value


def published(values: Any) -> Any:
    """Plain values, `published_name` of every text among them."""
    if isinstance(values, dict):
        return {key: published(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(map(published, values))
    return published_name(values) if isinstance(values, str) else values


def with_new_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings with the names that version 0.1 had for some in today's words."""
    renamed: dict[str, Any] = {}
    for group, value in values.items():
        if isinstance(value, Mapping):
            names = {key: RENAMED.get(f"{group}.{key}", f"{group}.{key}") for key in value}
            value = {names[key].removeprefix(f"{group}."): part for key, part in value.items()}
        renamed[group] = value
    return renamed


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings by their dotted names that differ between two runs' plain values: then, and now.

    A setting that is not among the earlier ones had the value that is its default.
    """
    then = {**flat_settings(asdict(Run())), **flat_settings(with_new_names(before))}
    now = flat_settings(after)
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return {name: (then.get(name), now.get(name)) for name in names}


def flat_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by their dotted names; the method's options are one by one, too."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": part for key, part in value.items()}
        else:
            flat[name] = value
    return flat
