"""Whatever a benchmark's file holds, its reader says in one line that it cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.benchmarks.read import read_benchmark
from datamodules.benchmarks.table import BENCHMARKS
from negatives.tables import InputError

FILES = {
    "own": ("spec.yaml",),
    "sugarcrepe": ("swap_obj.json",),
    "sugarcrepe_pp": ("swap_obj.json",),
    "valse": ("existence.json",),
    "aro_relation": ("visual_genome_relation.json",),
    "aro_attribution": ("visual_genome_attribution.json",),
    "aro_coco_order": ("coco_karpathy_test.json",),
    "aro_flickr30k_order": ("flickr30k_test.json",),
    "vl_checklist": ("corpus/v1/Attribute/color/vg.yaml",),
    "negbench_mcq_coco": ("COCO_val_mcq_llama3.1_rephrased.csv",),
    "negbench_mcq_voc": ("VOC2007_mcq_llama3.1_rephrased.csv",),
    "negbench_mcq_synthetic": ("synthetic_mcq_v1.csv",),
    "winoground": ("examples.jsonl",),
    "bivlc": ("test-00000-of-00001.parquet",),
    "naturalbench": ("test-00000-of-00001.parquet",),
    "naturalbench_retrieval": ("metadata.json",),
    "mmvp_vlm": ("Questions.csv",),
    "vismin": ("object.csv",),
    "magicbrush": ("edit_sessions.json", "global_descriptions.json"),
    "cola": ("COLA_multiobjects_matching_benchmark.json",),
    "seetrue": ("SeeTRUE.csv",),
    "tifa160": ("human_annotations_with_scores.json",),
    "genai_bench": ("genai_image.json", "genai_skills.json"),
    "genai_ranking": ("human_rating.json",),
    "flickr8k_expert": ("ExpertAnnotations.txt", "Flickr8k.token.txt"),
    "flickr8k_cf": ("crowdflower_flickr8k.json",),
    "coco_retrieval": ("dataset_coco.json",),
    "flickr30k_retrieval": ("flickr30k_test.json",),
    "captions_retrieval": ("captions.json",),
    "cifar10": ("test_batch", "batches.meta"),
    "cifar100": ("test", "meta"),
    "imagenet": ("imagenet_classnames.json", "n01/1.jpg"),
}
CONTENTS = (
    b"",
    b"{",
    b'"x',
    b"[]",
    b"{}",
    b"null",
    b"[1]",
    b'{"a": 1}',
    b'{"a": {"b": null}}',
    b"[[1, 2, 3, 4]]",
    b'[{"image": 3, "caption": 4, "id": null}]',
    b'{"a": {"models": {"m": ["x"]}, "prompt": "x"}}',
    b'{"a": {"text_id": "x", "image_path": "y", "text": "z", "human_scores": {"a": 1}}}',
    b'{"a": {"ground_truth": 3, "human_judgement": 4, "image_path": 5}}',
    b'[{"id": 1, "filename": "a.jpg", "caption": "\\ud800", "caption2": "b", "negative_caption": "c"}]',
    b"a,b\n1\n",
    b"\xff\xfe\x00",
    b"\x80\x02}.",
    b"[" * 100_000,
)


def test_official_benchmarks_are_among_them() -> None:
    assert FILES.keys() <= BENCHMARKS.keys()
    assert len(FILES) >= 32, "all but tables and folders of classes; who adds a benchmark need not know of this list"


@pytest.mark.parametrize("name", FILES)
def test_damage_is_one_line(tmp_path: Path, name: str) -> None:
    for number, content in enumerate(CONTENTS):
        folder = tmp_path / str(number)
        for file in FILES[name]:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        one_file = name in ("own", "captions_retrieval")
        with pytest.raises(InputError) as error:
            read_benchmark(name, annotations=folder / FILES[name][0] if one_file else folder, texts_only=True)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500
