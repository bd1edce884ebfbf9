"""What a face at rest looks like lowers sadness and anger, by no more, and for nobody else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fervor.errors import ModelError
from fervor.inference import neutral_baseline
from fervor.inference.neutral_baseline import OwnNeutral, Rest, correction
from fervor.io.frame import Frame
from fervor.labels import EXPRESSIONS


LABELS = ("happiness", "neutral", "sadness", "anger", "fear")
SAD_AT_REST = np.array([-4.0, 0.5, 1.5, -0.7, 3.0])


def frame(time: float | None, source: str = "clip.mp4") -> Frame:
    """Of a video of ten frames a second; or, without a time, an image."""
    return Frame(source, 0 if time is None else round(10 * time), time, None, None)


def test_by_hand() -> None:
    """Sadness leads neutral by 1.0, and anger trails it by 1.2; neutral shall lead by 1."""
    np.testing.assert_allclose(correction(SAD_AT_REST, LABELS), [0, 0, 2.0, 0, 0])
    rest = SAD_AT_REST - correction(SAD_AT_REST, LABELS)
    assert rest[1] - rest[2] == pytest.approx(neutral_baseline.MARGIN)


@given(st.lists(st.floats(-30, 30), min_size=8, max_size=8), st.floats(-50, 50))
def test_properties(values: list[float], constant: float) -> None:
    rest = np.array(values)
    lowered = correction(rest, EXPRESSIONS)
    corrected = [EXPRESSIONS.index(name) for name in neutral_baseline.CORRECTED]
    others = [k for k in range(8) if k not in corrected]
    assert (lowered[others] == 0).all()
    assert ((lowered >= 0) & (lowered <= neutral_baseline.LARGEST)).all()
    # Logits hold up to a constant.
    np.testing.assert_allclose(correction(rest + constant, EXPRESSIONS), lowered, atol=1e-9)
    if (rest[corrected] <= rest[0] - neutral_baseline.MARGIN).all():
        assert (lowered == 0).all()


class TestRest:
    def test_is_the_mean_of_the_most_neutral_samples(self) -> None:
        random = np.random.default_rng(0)
        rows = random.normal(0, 2, (50, 5))
        rest = Rest(LABELS.index("neutral"))
        for number, row in enumerate(rows):
            rest.add(row, number * 1.0)
            assert (rest.logits is None) == (number + 1 < neutral_baseline.LEAST)
        probabilities = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
        calm = np.argsort(-probabilities[:, 1])[:10]
        np.testing.assert_allclose(rest.logits, rows[calm].mean(axis=0))

    def test_samples_are_apart_and_few(self) -> None:
        rest = Rest(1)
        for number in range(200_000):  # more than half an hour at 100 frames a second
            rest.add(SAD_AT_REST, number / 100)
        assert neutral_baseline.MOST / 2 <= len(rest._samples) <= neutral_baseline.MOST
        np.testing.assert_allclose(rest.logits, SAD_AT_REST)

    def test_later_samples_count_as_much_as_early_ones(self) -> None:
        rest = Rest(1)
        for number in range(4000):
            rest.add(np.array([0, float(number >= 2000), 0, 0, 0]), number / 10)
        late = sum(sample[1] for sample in rest._samples) / len(rest._samples)
        assert late == pytest.approx(0.5, abs=0.1)


class TestOwnNeutral:
    def test_given(self) -> None:
        own = OwnNeutral(LABELS, SAD_AT_REST)
        row = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
        for time, track in ((None, None), (0.0, 3)):
            (answer,) = own.corrected(frame(time), [track], [row])
            np.testing.assert_allclose(answer, [1, 2, 1, 4, 5])

    def test_learnt_for_each_track_after_its_first_seconds(self) -> None:
        own = OwnNeutral(LABELS)
        happy = np.array([5.0, 0.0, -3.0, -3.0, -3.0])
        for number in range(40):
            answers = own.corrected(frame(number / 10), [0, 1], [SAD_AT_REST, happy])
            learnt = number + 1 >= neutral_baseline.LEAST
            np.testing.assert_allclose(
                answers[0], SAD_AT_REST - [0, 0, 2.0 if learnt else 0, 0, 0], atol=1e-9
            )
            np.testing.assert_array_equal(answers[1], happy)

    def test_another_source_and_the_same_again_start_anew_and_pictures_are_left_alone(self) -> None:
        own = OwnNeutral(LABELS)
        for number in range(40):
            own.corrected(frame(number / 10), [0], [SAD_AT_REST])
        for other in (frame(0.0), frame(4.0, "b.mp4"), frame(None, "a.jpg")):
            (answer,) = own.corrected(other, [0 if other.moving else None], [SAD_AT_REST])
            np.testing.assert_array_equal(answer, SAD_AT_REST)

    def test_memory_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(neutral_baseline, "TRACKS", 4)
        own = OwnNeutral(LABELS)
        for track in range(50):
            own.corrected(frame(track / 10), [track, 1000], [SAD_AT_REST, SAD_AT_REST])
        assert len(own._rests) == 4
        assert 1000 in own._rests

    def test_a_model_without_neutral(self) -> None:
        with pytest.raises(ModelError, match=r"labels are joy, grief: .* 'neutral'"):
            OwnNeutral(("joy", "grief"))
