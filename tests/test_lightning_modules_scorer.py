"""Scoring from Python: the same scores whatever pairs come together, and one line for what is wrong."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lightning_modules
from datamodules.batch import ImageTextBatch, InputError
from lightning_modules import Scorer
from tests.backbones import BACKBONES
from tests.tiny import CAPTIONS, photo, row

IMAGES = [photo(seed) for seed in range(3)]


@pytest.fixture(params=BACKBONES, scope="module")
def scorer(request: pytest.FixtureRequest) -> Scorer:
    return Scorer(BACKBONES[request.param].build(), device="cpu")


@pytest.fixture(scope="module")
def clip() -> Scorer:
    return Scorer(BACKBONES["clip"].build(), device="cpu")


@torch.no_grad()
def slow_logits(scorer: Scorer, image: int, caption: str) -> float:
    """One pair by the module itself."""
    return float(scorer.module.logits(scorer.module.collator()([row(image, [caption])]))[0, 0])


# what is computed


def test_a_pair_is_a_float_and_the_score_of_its_logit(scorer: Scorer) -> None:
    logit, score = scorer.logits(IMAGES[0], CAPTIONS[0]), scorer.score(IMAGES[0], CAPTIONS[0])
    assert type(logit) is type(score) is float
    assert logit == pytest.approx(slow_logits(scorer, 0, CAPTIONS[0]), abs=1e-6)
    assert score == pytest.approx(float(scorer.module.score(torch.tensor(logit))), abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_what_is_scored_together_changes_no_logit(scorer: Scorer, batch_size: int) -> None:
    places = [0, 1, 0, 2, 0, 1, 1, 0, 0]
    captions = [CAPTIONS[place % len(CAPTIONS)] for place in range(len(places))]
    expected = [slow_logits(scorer, image, caption) for image, caption in zip(places, captions, strict=True)]
    found = scorer.logits([IMAGES[image] for image in places], captions, batch_size=batch_size)
    assert isinstance(found, torch.Tensor)
    assert (found.shape, found.dtype) == ((9,), torch.float32)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 3) for value in expected}) > 5, "the pairs must differ for this to tell"


@pytest.mark.parametrize(("images", "captions"), [(3, 5), (3, 2), (1, 5), (3, 1)])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_matrix_holds_every_pair(scorer: Scorer, images: int, captions: int, batch_size: int) -> None:
    pairs = [[slow_logits(scorer, image, text) for text in CAPTIONS[:captions]] for image in range(images)]
    found = scorer.logits(IMAGES[:images], CAPTIONS[:captions], matrix=True, batch_size=batch_size)
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found, torch.tensor(pairs), atol=1e-5, rtol=0)
    scores = scorer.score(IMAGES[:images], CAPTIONS[:captions], matrix=True, batch_size=batch_size)
    torch.testing.assert_close(scores, scorer.module.score(found), atol=1e-6, rtol=0)


def count_calls(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many images and captions the collator has seen."""
    seen = {"images": 0, "captions": 0, "batches": 0}
    collate = scorer.module.collator()

    def counted(rows: Any) -> ImageTextBatch:
        seen["batches"] += 1
        seen["images"] += len(rows)
        seen["captions"] += sum(len(item.captions) for item in rows)
        return collate(rows)

    monkeypatch.setattr(scorer.module, "collator", lambda: counted)
    return seen


def test_an_image_is_computed_once_for_its_captions(clip: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_calls(clip, monkeypatch)
    clip.score([IMAGES[0], IMAGES[1]] * 8, CAPTIONS[:1] * 16)
    assert seen == {"images": 2, "captions": 16, "batches": 1}
    clip.score(IMAGES[0], CAPTIONS[:1] * 17, batch_size=20)
    assert seen == {"images": 4, "captions": 33, "batches": 2}, "a row holds 16 captions"


@pytest.mark.parametrize(("images", "captions"), [(3, 10), (1, 160), (30, 1)])
def test_a_matrix_of_clip_encodes_each_image_and_each_caption_once(images: int, captions: int, clip: Scorer) -> None:
    seen = {"vision_model": 0, "text_model": 0}
    hooks = []
    for name in seen:

        def count(_module: Any, _given: Any, output: Any, name: str = name) -> None:
            seen[name] += len(output.last_hidden_state)

        hooks.append(getattr(clip.module.network.clip, name).register_forward_hook(count))
    clip.score(IMAGES[:1] * images, [f"dog {place}" for place in range(captions)], matrix=True, batch_size=7)
    for hook in hooks:
        hook.remove()
    assert seen == {"vision_model": images, "text_model": captions}


def test_shapes_follow_the_arguments(clip: Scorer) -> None:
    image, caption = IMAGES[0], CAPTIONS[0]

    def shape(*arguments: Any, **settings: Any) -> tuple[int, ...]:
        return tuple(clip.score(*arguments, **settings).shape)  # type: ignore[union-attr]

    assert shape([image], [caption]) == shape(image, [caption]) == shape([image], caption) == (1,)
    assert shape(image, CAPTIONS) == shape([image] * 5, caption) == shape(iter([image] * 5), iter(CAPTIONS)) == (5,)
    assert shape(image, caption, matrix=True) == (1, 1)
    assert shape([image, image], CAPTIONS, matrix=True) == (2, 5)
    assert shape([], []) == shape(image, []) == shape([], caption) == (0,)
    assert shape([], CAPTIONS, matrix=True) == (0, 5)
    assert shape(image, [], matrix=True) == (1, 0)


def test_an_image_is_the_same_as_object_path_and_array(clip: Scorer, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    IMAGES[0].save(path)
    given = [IMAGES[0], path, str(path), np.asarray(IMAGES[0]), IMAGES[0].convert("RGBA")]
    assert len(set(clip.logits(given, CAPTIONS[0]).tolist())) == 1  # type: ignore[union-attr]


def test_scores_are_plain_tensors_and_gradients_and_autocast_stay_outside(scorer: Scorer) -> None:
    expected = scorer.score(IMAGES, CAPTIONS[:3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = scorer.score(IMAGES, CAPTIONS[:3])
    assert isinstance(scores, torch.Tensor)
    assert torch.equal(scores, expected)  # type: ignore[arg-type]
    assert not scores.is_inference()
    assert not scores.requires_grad
    scores.requires_grad_().sum().backward()


def test_copies_share_the_model(clip: Scorer) -> None:
    assert copy.deepcopy(clip).module is clip.module
    assert repr(clip) == "Scorer(clip, torch.float32, cpu)"


def test_cut_captions_are_counted(clip: Scorer) -> None:
    before = clip.module.captions_cut
    clip.score(IMAGES[0], ["a dog", "dog " * 100])
    assert clip.module.captions_cut == before + 1
    clip.score(IMAGES, ["a dog", "dog " * 100], matrix=True)
    assert clip.module.captions_cut == before + 2, "in a matrix a caption is read once, whatever the number of images"


# what is no image, no caption, or does not go together

DOG = "a dog"
BAD_PAIRS: dict[str, tuple[tuple[Any, Any], str]] = {
    "different lengths": (
        (IMAGES[:2], CAPTIONS[:3]),
        "images and captions must be as many, got 2 and 3; matrix=True scores each image with each caption.",
    ),
    "one in a list beside more": ((IMAGES[:1], CAPTIONS[:3]), "must be as many, got 1 and 3"),
    "no caption": (([*IMAGES], [DOG, None, DOG]), "captions[1] must be a str, got NoneType."),
    "swapped": ((DOG, IMAGES[0]), "captions must be a str or a list of str, got Image."),
    "a number": ((3, DOG), "images must be a Pillow image, a path, an RGB array or a list of these, got int."),
    "a tensor": ((torch.zeros(3, 4, 4), DOG), "images must be a Pillow image, a path, an RGB array or a list of"),
    "none among images": (([IMAGES[0], None], DOG), "images[1] must be a Pillow image, a path or an RGB array, got"),
    "no file": (([IMAGES[0], "no/such.png"], DOG), "images[1]: there is no file 'no/such.png'"),
    "a folder": ((Path("/"), DOG), "images: there is no file '/'"),
    "an array of floats": ((np.zeros((4, 4, 3)), DOG), "images must be an array [H, W, 3] of uint8, got [4, 4, 3] of"),
    "channels first": (([np.zeros((3, 8, 4), np.uint8)], DOG), "images[0] must be an array [H, W, 3] of uint8, got"),
    "no pixels": (([Image.new("RGB", (0, 4))], DOG), "images[0] has no pixels: its size is (0, 4)."),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_bad_pairs_are_one_line_with_their_place(case: str, clip: Scorer) -> None:
    (images, captions), expected = BAD_PAIRS[case]
    with pytest.raises(InputError) as caught:
        clip.score(images, captions)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_file_is_one_line_with_its_place(clip: Scorer, tmp_path: Path) -> None:
    good, broken, text = tmp_path / "good.png", tmp_path / "broken.png", tmp_path / "text.png"
    photo(0, 64, 64).save(good)
    broken.write_bytes(good.read_bytes()[:2000])
    text.write_text("no image")
    for bad in (broken, text, Image.open(broken)):
        with pytest.raises(InputError, match=r"^images\[2\].* cannot be read as an image \(") as caught:
            clip.score([good, good, bad], "a dog", batch_size=1)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("matrix", [False, True])
def test_an_image_above_the_scorers_limit_is_one_line(
    matrix: bool, clip: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip, "max_pixels", 98_303)
    with pytest.raises(InputError, match=r"^images\[1\] .*24 x 16 pixels grow to 98304 [^\n]*raise max_pixels"):
        clip.score([photo(0, 16, 16), IMAGES[0]], CAPTIONS[:2], matrix=matrix)
    monkeypatch.setattr(clip, "max_pixels", 98_304)
    clip.score([photo(0, 16, 16), IMAGES[0]], CAPTIONS[:2], matrix=matrix)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True])
def test_a_batch_holds_at_least_a_pair(clip: Scorer, batch_size: Any) -> None:
    with pytest.raises(InputError, match="batch_size must be a whole number from 1"):
        clip.score(IMAGES[0], CAPTIONS[0], batch_size=batch_size)


def test_a_logit_that_is_not_finite_is_no_score() -> None:
    scorer = Scorer(BACKBONES["clip"].build(), device="cpu")
    torch.nn.init.constant_(scorer.module.network.clip.text_projection.weight, float("nan"))  # type: ignore[union-attr, arg-type]
    for matrix in (False, True):
        with pytest.raises(InputError, match=r"images\[0\] and captions\[0\] is not finite"):
            scorer.score(IMAGES, CAPTIONS[:3], matrix=matrix)


# the package


def test_the_package_stays_light_and_lists_what_it_offers() -> None:
    code = "import sys, lightning_modules as l\nassert 'load_scorer' in dir(l)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nothing"):
        lightning_modules.nothing  # noqa: B018
