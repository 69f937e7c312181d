"""The engine: the same scores however the work is cut, dealt out and interrupted, and no pair scored twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from datamodules.sources.images import load_image, noise_image
from experiments.scoring.engine import EngineSettings
from experiments.scoring.models import Answered, answer_apart, answer_pairs, directions
from experiments.scoring.plan import plan_pairs, plan_singles
from experiments.scoring.ranks import World, launched, world
from experiments.scoring.requests import Asked, Requests, join
from experiments.scoring.store import Store
from lightning_modules import Scorer
from negatives.tables import InputError
from tests.tiny import photo, tiny_backbone

IMAGES, CPU = 6, torch.device("cpu")
CAPTIONS = [
    f"a {colour} {thing} {'left of it ' * n}" for colour in ("red", "blue") for thing in "abc" for n in range(3)
]
PAIRS = np.array([(image, text) for image in range(IMAGES) for text in range(len(CAPTIONS)) if (image + text) % 3])
SMALL = EngineSettings(batch_size=4, unit_rows=3, max_captions=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(IMAGES):
        photo(number).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def module() -> Any:
    return tiny_backbone("llava")


@pytest.fixture(scope="module")
def clip() -> Any:
    return tiny_backbone("clip")


def asked(folder: Path, pairs: np.ndarray | None = PAIRS, texts: list[str] = CAPTIONS, prefix: str = "") -> Asked:
    names = [f"{prefix}{number}" for number in range(IMAGES)]
    files = [f"{number}.png" for number in range(IMAGES)]
    return Asked(pa.table({"image_id": names, "image": files}), pa.array(texts), pairs, folder)


def logits(requests: Requests, answered: Answered | None, *, blind: bool = False, one: int = 0) -> np.ndarray:
    assert answered is not None
    found = requests.sets[one]
    images = found.blind if blind else found.images
    assert images is not None
    assert found.asked is not None
    return answered.pairs(images[found.asked[:, 0]], found.texts[found.asked[:, 1]])


def run(module: Any, requests: Requests, store: Path, settings: EngineSettings = SMALL, place: World = World()) -> Any:  # noqa: B008
    answer: Callable[..., Any] = answer_apart if module.encodes_apart else answer_pairs
    return answer(module, CPU, requests, Store(store, {"of": module.backbone}), settings, place)


@pytest.mark.parametrize("backbone", ["llava", "clip", "blip2"])
def test_scores_are_those_of_single_pairs_at_any_batch_size(backbone: str, folder: Path, tmp_path: Path) -> None:
    scorer = Scorer(tiny_backbone(backbone), device="cpu")
    requests = join([asked(folder)])
    for batch_size in (1, 7, 64):
        settings = EngineSettings(batch_size, unit_rows=5, max_captions=4)
        found = run(scorer.module, requests, tmp_path / str(batch_size), settings)
        for blind in (False, True):
            images = [load_image(folder, f"{image}.png") for image in range(IMAGES)]
            if blind:
                images = [noise_image(image.size, 0, str(number)) for number, image in enumerate(images)]
            some = slice(None, None, 9)
            expected = [scorer.logits(images[image], CAPTIONS[text]) for image, text in PAIRS[some]]
            assert logits(requests, found, blind=blind)[some] == pytest.approx(expected, abs=1e-5)


def test_workers_change_nothing(module: Any, folder: Path, tmp_path: Path) -> None:
    requests = join([asked(folder)])
    alone, helped = (
        run(module, requests, tmp_path / str(workers), EngineSettings(4, 3, 4, workers)) for workers in (0, 2)
    )
    assert logits(requests, alone).tolist() == logits(requests, helped).tolist()


@pytest.mark.parametrize("backbone", ["llava", "clip"])
def test_two_ranks_share_the_units_and_find_what_one_finds(backbone: str, folder: Path, tmp_path: Path) -> None:
    module, requests = tiny_backbone(backbone), join([asked(folder)])
    expected = logits(requests, run(module, requests, tmp_path / "one"))
    assert run(module, requests, tmp_path / "two", place=World(1, 2)) is None
    units = {path.name for path in (tmp_path / "two").rglob("*/*/*.parquet")}
    assert units
    assert units < {path.name for path in (tmp_path / "one").rglob("*/*/*.parquet")}
    found = run(module, requests, tmp_path / "two", place=World(0, 2))
    assert logits(requests, found).tolist() == expected.tolist()


class Killed(BaseException):
    """Ends the engine as a signal does, between two batches."""


def killed_after(batches: int, module: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets the module compute some batches; the list counts the captions that it has computed."""
    computed: list[int] = []
    real = type(module).logits

    def counting(self: Any, batch: Any) -> torch.Tensor:
        if len(computed) == batches:
            raise Killed
        computed.append(int(batch.caption_mask.sum()))
        found: torch.Tensor = real(self, batch)
        return found

    monkeypatch.setattr(type(module), "logits", counting)
    return computed


@pytest.mark.parametrize("batches", [1, 3, 6])
def test_what_a_kill_leaves_is_gone_on_with_and_no_unit_is_scored_twice(
    batches: int, module: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, settings = join([asked(folder)]), EngineSettings(batch_size=2, unit_rows=3, max_captions=4)
    expected = logits(requests, run(module, requests, tmp_path / "whole", settings))
    with monkeypatch.context() as patch:
        killed_after(batches, module, patch)
        with pytest.raises(Killed):
            run(module, requests, tmp_path / "killed", settings)
    store = Store(tmp_path / "killed", {"of": "llava"})
    saved = sum(pq.read_metadata(store.folder / "pairs" / name).num_rows for name in store.files("pairs"))
    with monkeypatch.context() as patch:
        computed = killed_after(-1, module, patch)
        found = run(module, requests, tmp_path / "killed", settings)
    assert sum(computed) == found.counts["pairs"] == 2 * len(PAIRS) - saved
    assert logits(requests, found).tolist() == expected.tolist()
    assert logits(requests, found, blind=True).tolist() != expected.tolist()


def test_what_another_set_has_asked_is_not_scored_again(module: Any, folder: Path, tmp_path: Path) -> None:
    first = join([asked(folder, PAIRS[:40])])
    assert run(module, first, tmp_path).counts == {"pairs": 80}
    # the same photos under the same ids: of the whole set the rest is left
    whole = join([asked(folder)])
    assert run(module, whole, tmp_path).counts == {"pairs": 2 * (len(PAIRS) - 40)}
    assert run(module, whole, tmp_path).counts == {"pairs": 0}
    assert run(module, first, tmp_path).counts == {"pairs": 0}


def test_a_photo_of_two_names_is_scored_once_and_its_noise_for_each(module: Any, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copies")
    requests = join([asked(folder), asked(tmp_path / "copies", prefix="other-")])
    found = run(module, requests, tmp_path)
    # noise is drawn by the id, as ever
    assert found.counts == {"pairs": 3 * len(PAIRS)}
    assert logits(requests, found).tolist() == logits(requests, found, one=1).tolist()
    assert logits(requests, found, blind=True).tolist() != logits(requests, found, one=1, blind=True).tolist()


def test_a_box_is_an_image_of_its_own(clip: Any, folder: Path, tmp_path: Path) -> None:
    whole = asked(folder, PAIRS[:1])
    boxes = pa.array([[2, 3, 10, 8]] * IMAGES, pa.list_(pa.int32()))
    requests = join([whole, Asked(whole.images.append_column("box", boxes), whole.texts, whole.pairs, folder)])
    found = run(clip, requests, tmp_path)
    crop = load_image(folder, "0.png").crop((2, 3, 12, 11))
    expected = Scorer(clip, device="cpu").logits(crop, CAPTIONS[PAIRS[0, 1]])
    assert logits(requests, found, one=1) == pytest.approx([expected], abs=1e-5)
    assert abs(logits(requests, found) - expected) > 1e-3


def test_a_matrix_of_a_clip_encodes_each_image_and_each_text_once(clip: Any, folder: Path, tmp_path: Path) -> None:
    requests = join([asked(folder, None)], blind=False)
    found = run(clip, requests, tmp_path)
    assert found.counts == {"images": IMAGES, "texts": len(CAPTIONS)}
    one = requests.sets[0]
    matrix = found.matrix(one.images, one.texts, np.arange(len(CAPTIONS)))
    paths = [folder / f"{number}.png" for number in range(IMAGES)]
    expected: Any = Scorer(clip, device="cpu").logits(paths, CAPTIONS, matrix=True)
    np.testing.assert_allclose(matrix, expected.numpy(), atol=1e-5)


def test_a_class_in_templates_has_the_direction_of_their_mean(clip: Any, folder: Path, tmp_path: Path) -> None:
    requests = join([asked(folder, None)], blind=False)
    found, one = run(clip, requests, tmp_path), requests.sets[0]
    groups = np.arange(len(CAPTIONS)) % 4
    matrix = found.matrix(one.images, one.texts, groups)
    # Radford et al.'s loop, by Transformers alone: normalise, average, normalise, times the scale
    photos = [load_image(folder, f"{number}.png") for number in range(IMAGES)]
    network, processor = clip.network.clip, clip.processor
    with torch.no_grad():
        pixels = processor(images=photos, return_tensors="pt")["pixel_values"]
        images = network.get_image_features(pixel_values=pixels).pooler_output.numpy()
        for group in range(4):
            weight = np.zeros(images.shape[1])
            for place in np.flatnonzero(groups == group):
                tokens = processor(text=[CAPTIONS[place]], return_tensors="pt")
                text = network.get_text_features(**tokens).pooler_output[0].numpy()
                weight += text / np.linalg.norm(text)
            weight /= np.linalg.norm(weight)
            for row, image in enumerate(images):
                logit = network.logit_scale.exp().item() * image @ weight / np.linalg.norm(image)
                assert matrix[row, group] == pytest.approx(logit, abs=1e-4)


def test_wordings_keep_their_length_and_a_single_one_its_bits() -> None:
    features = np.array([[3, 0], [0.1, 0.7], [0, 6], [1, 0], [-1, 0]], np.float32)
    found = directions(features, np.array([0, 1, 0, 2, 2]))
    np.testing.assert_allclose(found[0], np.array([1, 1]) / np.sqrt(2) * 4.5, rtol=1e-6)
    assert found[1].tolist() == features[1].tolist()
    assert found[2].tolist() == [0, 0], "wordings that say the opposite have no direction"


def test_a_matrix_of_a_joint_scorer_is_every_pair(module: Any, folder: Path, tmp_path: Path) -> None:
    requests = join([asked(folder, None, CAPTIONS[:5])], blind=False)
    found = run(module, requests, tmp_path)
    assert found.counts == {"pairs": IMAGES * 5}
    one = requests.sets[0]
    paths = [folder / f"{number}.png" for number in range(IMAGES)]
    expected: Any = Scorer(module, device="cpu").logits(paths, CAPTIONS[:5], matrix=True)
    np.testing.assert_allclose(found.matrix(one.images, one.texts, np.arange(5)), expected.numpy(), atol=1e-5)


def test_a_damaged_unit_is_scored_again(
    module: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = join([asked(folder)])
    expected = logits(requests, run(module, requests, tmp_path)).tolist()
    unit = next(tmp_path.rglob("pairs/*.parquet"))
    unit.write_bytes(unit.read_bytes()[:-9])
    found = run(module, requests, tmp_path)
    assert 0 < found.counts["pairs"] < 2 * len(PAIRS)
    assert logits(requests, found).tolist() == expected
    assert "is damaged: it is scored again" in capsys.readouterr().out


def test_scores_of_another_fingerprint_are_no_scores_of_this_one(clip: Any, folder: Path, tmp_path: Path) -> None:
    requests = join([asked(folder)])
    for fingerprint in ({"weights": "a"}, {"weights": "b"}):
        found = answer_apart(clip, CPU, requests, Store(tmp_path, fingerprint), SMALL, World())
        assert found is not None
        assert found.counts == {"images": 2 * IMAGES, "texts": len(CAPTIONS)}


def test_a_logit_that_is_not_finite_is_one_line(folder: Path, tmp_path: Path) -> None:
    module = tiny_backbone("llava")
    for parameter in module.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(InputError, match=r"A logit is not finite, images \['\d.png'"):
        run(module, join([asked(folder)]), tmp_path)
    assert not [*tmp_path.rglob("pairs/*.parquet")]


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_has_every_item_once_in_rows_of_one_image(seed: int) -> None:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 200, 37)
    pairs = np.flatnonzero(draw.random(50 * 37) < 0.3)
    items = np.flatnonzero(draw.random(len(pairs)) < 0.7)
    plan = plan_pairs(pairs, items, lengths, max_captions=4, unit_rows=3)
    assert sorted(plan.order) == items.tolist()
    assert sorted(item for unit in range(plan.units) for item in plan.items(unit)) == items.tolist()
    rows = [pairs[plan.row(row)] for row in range(plan.rows)]
    assert all(1 <= len(row) <= 4 and len({*(row // 37)}) == 1 for row in rows)
    # no more rows than the images need
    assert plan.rows == sum(-(-count // 4) for count in np.unique(pairs[items] // 37, return_counts=True)[1])
    sizes = [lengths[row % 37].sum() for row in rows]
    assert sizes[: 16 * 3] == sorted(sizes[: 16 * 3], reverse=True)
    for batch_size in (1, 2, 7):
        batches = [batch for unit in range(plan.units) for batch in plan.batches(unit, batch_size)]
        assert [row for batch in batches for row in batch] == [*range(plan.rows)]
        assert all(batch[0] // 3 == batch[-1] // 3 for batch in batches), "no batch is of two units"


def test_nothing_to_do_is_a_plan_without_units() -> None:
    nothing = np.empty(0, np.int64)
    assert plan_pairs(nothing, nothing, np.ones(3, np.int64), max_captions=4, unit_rows=3).units == 0
    assert plan_singles(nothing, None, unit_rows=3).units == 0


def test_the_first_rank_does_not_wait_for_one_that_has_ended() -> None:
    ended: Any = SimpleNamespace(exitcode=2, name="rank 1")
    with pytest.raises(InputError, match="process rank 1 ended with exit code 2"):
        World(0, 2, 0, (ended,)).wait(lambda: False)
    done = iter([False, True])
    well: Any = SimpleNamespace(exitcode=0, name="rank 1")
    World(0, 2, 0, (well,)).wait(lambda: next(done))


def test_a_launcher_and_devices_have_to_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() is None
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert launched() == World(1, 4, 1)
    with pytest.raises(InputError, match="devices must be 4, as many as the launcher started"), world(2, print):
        pass
    with world(1, print) as place:
        assert place == World(1, 4, 1)


def test_an_image_that_is_gone_is_one_line(folder: Path) -> None:
    images = pa.table({"image_id": ["x"], "image": ["gone.png"]})
    with pytest.raises(InputError, match=r"gone.png' cannot be read"):
        join([Asked(images, pa.array(["a"]), np.array([[0, 0]]), folder)])
