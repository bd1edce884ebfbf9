"""The commands `fervor data check` and `fervor data align`."""

from typing import Literal

from fervor.errors import DONE, PROBLEM, counted


def data_check(
    name: str, root: str, *, protocol: str = "", annotations: str = "", quick: bool = False
) -> int:
    """Compare a data set's folder with its official tree, counts and pictures.

    Args:
        name: the data set: ferplus, rafdb, affectnet, ckplus, folder or csv.
        root: its folder.
        protocol: the rule that turns annotations into labels; empty for the data set's default.
        annotations: label source or kind of pictures, where a data set has several.
        quick: read only the headers of pictures, and compare files instead of pixels.
    """
    from fervor.data import check

    report = check.check(name, root, protocol=protocol, annotations=annotations, quick=quick)
    print("\n".join(report.lines))
    return PROBLEM if report.problems else DONE


def data_align(
    name: str,
    root: str,
    out: str,
    *,
    protocol: str = "",
    annotations: str = "",
    size: int = 112,
    margin: float = 0.0,
    missing: Literal["keep", "centre", "skip"] = "keep",
    threads: int = 0,
) -> int:
    """Find, align and cut out the faces of a data set once; a stopped run goes on.

    Args:
        name: the data set.
        root: its folder.
        out: folder of the crops and their manifest, for --data.aligned.
        protocol: whose pictures; empty for the data set's default.
        annotations: label source where a data set has several.
        size: pixels of a crop's side.
        margin: added on each side of the crop that predict cuts out, as a share of its side.
        missing: where no face is found, keep the whole picture or annotated box, cut out its
            centre, or skip it; the manifest lists which.
        threads: threads; 0 for all cores.
    """
    from fervor.data.alignment import align
    from fervor.data.manifest import MANIFEST

    counts = align(
        name,
        root,
        out,
        protocol=protocol,
        annotations=annotations,
        size=size,
        margin=margin,
        missing=missing,
        threads=threads,
    )
    lost = counts["kept"] + counts["centred"] + counts["skipped"]
    print(
        f"{out}: {counted(sum(counts.values()), 'picture')}, {counts['ok']} aligned, "
        f"{lost} without a face "
        f"({counts['kept']} kept, {counts['centred']} centred, {counts['skipped']} skipped), "
        f"{counts['error']} unreadable; listed in {MANIFEST}"
    )
    return PROBLEM if counts["error"] else DONE
