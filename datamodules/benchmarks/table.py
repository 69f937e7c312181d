"""Benchmarks: one row of `BENCHMARKS` for each, for evaluation, validation and audits.

A new benchmark is its file in a folder of `readers`, with a function `read`, and its row here. A reader takes the
inputs of its row and `image_root`, all by keyword, and returns a `Benchmark`; it reads texts only. What holds for every
benchmark is done in `read`: which images are there, which of them are wanted, whether ids and groups are usable, and
whether there are as many items as the official files have.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from datamodules.benchmarks.protocols.measured import ALL, MEAN, MetricName
from negatives.tables import InputError, nearest_name, quoted

if TYPE_CHECKING:
    from datamodules.benchmarks.benchmark import Benchmark

READERS = "datamodules.benchmarks.readers"
NONE: Mapping[str, int] = MappingProxyType({})


class Reader(NamedTuple):
    """How a benchmark is read.

    Attributes:
        place: Dotted place of the function that reads it, imported on use.
        protocol: What its items ask: a row of `PROTOCOLS`.
        on_disk: What has to be there, in one phrase.
        counts: Group -> items of the official files, as far as they are known; "" for all. In retrieval and classes an
            item is an image.
        inputs: What the reader reads, among `captions`, `negatives` (files) and `annotations` (a folder or a file).
        published: Whether it comes in official files, whose images lie elsewhere and may be there in part. Tables of
            one's own have to be whole, and their images lie beside them where no `image_root` is given.
        main: The number that is published of it, as a metric and its group; None where none is.
        images: Folder below the benchmark's own in which its images are looked for, if it is there.
    """

    place: str
    protocol: str = "pairs"
    on_disk: str = "its official files, and their images"
    counts: Mapping[str, int] = NONE
    inputs: tuple[str, ...] = ("annotations",)
    published: bool = True
    images: str = "images"
    main: MetricName | None = None

    def needs(self, *, images: bool) -> tuple[str, ...]:
        """The keys that have to be given, to read texts alone or to score `images` too."""
        return (*self.inputs, "image_root") if images and self.published else self.inputs

    def load_reader(self) -> Callable[..., Benchmark]:
        """The reader, imported now."""
        module, _, name = self.place.rpartition(".")
        reader: Callable[..., Benchmark] = getattr(importlib.import_module(module), name)
        return reader


VALSE = {
    "existence": 505,
    "plurals": 851,
    "counting-hard": 868,
    "counting-small-quant": 900,
    "counting-adversarial": 691,
    "relations": 535,
    "action-replacement": 648,
    "actant-swap": 949,
    "coreference-standard": 708,
    "coreference-hard": 104,
    "foil-it": 943,
}
"""Piece -> valid items."""
CREPE = {"replace_obj": 1652, "replace_att": 788, "replace_rel": 1406, "swap_obj": 245, "swap_att": 666}
"""Items of the types that SugarCrepe and SugarCrepe++ share."""
VAL2017 = "COCO val2017 photos"
BENCHMARKS = {
    "tables": Reader(
        f"{READERS}.pairs.tables.read",
        on_disk="a captions and a negatives table, images beside them",
        inputs=("captions", "negatives"),
        published=False,
    ),
    "own": Reader(
        f"{READERS}.own.read",
        protocol="any",
        on_disk="a YAML file that names a table, its columns and a protocol, and the images",
        published=False,
    ),
    "sugarcrepe": Reader(
        f"{READERS}.pairs.sugarcrepe.read",
        on_disk=f"replace_obj.json and the like, {VAL2017}",
        counts={**CREPE, "add_obj": 2062, "add_att": 692, "": 7511},
        # the paper's table has the seven types, and no number of all: this is the mean over them
        main=MetricName("accuracy", MEAN),
    ),
    "sugarcrepe_pp": Reader(
        f"{READERS}.pairs.sugarcrepe_pp.read",
        on_disk=f"replace_obj.json and the like, {VAL2017}",
        counts={**CREPE, "": 4757},
        main=MetricName("accuracy", MEAN),
    ),
    "valse": Reader(
        f"{READERS}.pairs.valse.read",
        on_disk="existence.json and the like, images of all its sources in one folder",
        counts=VALSE,
        main=MetricName("accuracy", MEAN),
    ),
    "aro_relation": Reader(
        f"{READERS}.pairs.aro.read_relation",
        on_disk="visual_genome_relation.json, Visual Genome images",
        main=MetricName("accuracy", MEAN),
    ),
    "aro_attribution": Reader(
        f"{READERS}.pairs.aro.read_attribution",
        on_disk="visual_genome_attribution.json, Visual Genome images",
        main=MetricName("accuracy", MEAN),
    ),
    "aro_coco_order": Reader(
        f"{READERS}.pairs.aro_order.read_coco",
        on_disk="coco_karpathy_test.json, COCO val2014 photos in val2014/",
        counts={"": 25010},
        main=MetricName("accuracy", ALL),
    ),
    "aro_flickr30k_order": Reader(
        f"{READERS}.pairs.aro_order.read_flickr30k",
        on_disk="flickr30k_test.json, Flickr30k photos",
        counts={"": 5000},
        main=MetricName("accuracy", ALL),
    ),
    "vl_checklist": Reader(
        f"{READERS}.pairs.vl_checklist.read",
        on_disk="its corpus/ and data/ folders, images in vg/, hake/, swig/",
        # Object, Attribute and Relation are published: this is the mean of the three
        main=MetricName("accuracy", "families"),
    ),
    "negbench_mcq_coco": Reader(
        f"{READERS}.pairs.negbench.read_coco",
        on_disk=f"COCO_val_mcq_llama3.1_rephrased.csv, {VAL2017}",
        counts={"positive": 2032, "negative": 1870, "hybrid": 2012, "": 5914},
        main=MetricName("accuracy", ALL),
    ),
    "negbench_mcq_voc": Reader(
        f"{READERS}.pairs.negbench.read_voc",
        on_disk="VOC2007_mcq_llama3.1_rephrased.csv, VOC2007 images",
        counts={"positive": 682, "negative": 2121, "hybrid": 2228, "": 5031},
        main=MetricName("accuracy", ALL),
    ),
    "negbench_mcq_synthetic": Reader(
        f"{READERS}.pairs.negbench.read_synthetic",
        on_disk="a synthetic_mcq_*.csv and its images",
        main=MetricName("accuracy", ALL),
    ),
    "winoground": Reader(
        f"{READERS}.groups.winoground.read",
        protocol="groups",
        on_disk="examples.jsonl and images/, or metadata.csv; new_tag_assignments.json for sub-tags",
        counts={"": 400},
        main=MetricName("group", ALL),
    ),
    "bivlc": Reader(
        f"{READERS}.groups.bivlc.read",
        protocol="groups",
        on_disk="its Parquet files; a folder in which their images are saved",
        counts={"replace": 2099, "swap": 359, "add": 475, "": 2933},
        main=MetricName("group", ALL),
    ),
    "naturalbench": Reader(
        f"{READERS}.groups.naturalbench.read_questions",
        protocol="groups",
        on_disk="its Parquet files; a folder in which their images are saved",
        counts={"": 1900},
        # needs a logit that says yes above 0; Winoground's group score of all other scorers
        main=MetricName("group_answers", ALL),
    ),
    "naturalbench_retrieval": Reader(
        f"{READERS}.groups.naturalbench.read_retrieval",
        protocol="groups",
        on_disk="metadata.json and images/ of NaturalBench-Retrieval.zip",
        main=MetricName("group", ALL),
    ),
    "mmvp_vlm": Reader(
        f"{READERS}.groups.mmvp.read",
        protocol="groups",
        on_disk="Questions.csv and its folder of images",
        counts={"": 135},
        main=MetricName("image", MEAN),
    ),
    "vismin": Reader(
        f"{READERS}.groups.vismin.read",
        protocol="groups",
        on_disk="object.csv and the like, original_images/ and edited_images/",
        counts={"": 2084},
        main=MetricName("average", MEAN),
    ),
    "magicbrush": Reader(
        f"{READERS}.groups.magicbrush.read",
        protocol="groups",
        on_disk="edit_sessions.json, the captions of its images, images/",
    ),
    "cola": Reader(
        f"{READERS}.groups.cola.read",
        protocol="groups",
        on_disk="COLA_multiobjects_matching_benchmark.json, Visual Genome images",
        counts={"": 210},
        main=MetricName("image", ALL),
    ),
    "seetrue": Reader(
        f"{READERS}.labels.seetrue.read",
        protocol="labels",
        on_disk="SeeTRUE.csv and its images",
        counts={"editbench": 3827, "coco_t2i": 1791, "drawbench": 1312, "": 6930},
        main=MetricName("roc_auc", MEAN),
    ),
    "tifa160": Reader(
        f"{READERS}.ratings.tifa160.read",
        protocol="ratings",
        on_disk="human_annotations_with_scores.json, or tifa160.json and dsg_tifa160_anns.csv; its images",
        counts={"": 800},
        main=MetricName("tau_b", ALL),
    ),
    "genai_bench": Reader(
        f"{READERS}.ratings.genai_bench.read",
        protocol="ratings",
        on_disk="genai_image.json, genai_skills.json, images in <model>/",
        main=MetricName("tau_b", ALL),
    ),
    "genai_ranking": Reader(
        f"{READERS}.ratings.genai_bench.read_ranking",
        protocol="ratings",
        on_disk="human_rating.json, genai_skills.json, images in <model>/",
        # the paper has best_of_n too, a rating from 1 to 5: no mean with other benchmarks' numbers holds it
        main=MetricName("ranking_accuracy", ALL),
    ),
    "flickr8k_expert": Reader(
        f"{READERS}.ratings.flickr8k.read_expert",
        protocol="ratings",
        on_disk="ExpertAnnotations.txt and Flickr8k.token.txt, or flickr8k.json; Flickr8k photos",
        counts={"": 5664},
        main=MetricName("tau_c", ALL),
    ),
    "flickr8k_cf": Reader(
        f"{READERS}.ratings.flickr8k.read_cf",
        protocol="ratings",
        on_disk="CrowdFlowerAnnotations.txt and Flickr8k.token.txt, or crowdflower_flickr8k.json; Flickr8k photos",
        # the crowd's is tau-b, the experts' tau-c
        main=MetricName("tau_b", ALL),
    ),
    "coco_retrieval": Reader(
        f"{READERS}.retrieval.captions.read_coco",
        protocol="retrieval",
        on_disk="dataset_coco.json or coco_karpathy_test.json, COCO val2014 photos in val2014/",
        counts={"": 5000},
        main=MetricName("recall_mean", ALL),
    ),
    "flickr30k_retrieval": Reader(
        f"{READERS}.retrieval.captions.read_flickr30k",
        protocol="retrieval",
        on_disk="dataset_flickr30k.json or flickr30k_test.json, Flickr30k photos",
        counts={"": 1000},
        main=MetricName("recall_mean", ALL),
    ),
    "captions_retrieval": Reader(
        f"{READERS}.retrieval.captions.read",
        protocol="retrieval",
        on_disk="captions.parquet, .jsonl, .csv, .tsv or .json (COCO, Karpathy, LAVIS), and its images",
        images="",  # a table's paths start from the table's folder
    ),
    "cifar10": Reader(
        f"{READERS}.classes.cifar.read_cifar10",
        protocol="classes",
        on_disk="test_batch and batches.meta; a folder in which the images are saved",
        counts={"": 10000},
        main=MetricName("top1", ALL),
    ),
    "cifar100": Reader(
        f"{READERS}.classes.cifar.read_cifar100",
        protocol="classes",
        on_disk="test and meta; a folder in which the images are saved",
        counts={"": 10000},
        main=MetricName("top1", ALL),
    ),
    "imagenet": Reader(
        f"{READERS}.classes.folders.read_imagenet",
        protocol="classes",
        on_disk="a list of 1,000 class names (JSON), images in folders named by WordNet ids",
        counts={"": 50000},
        main=MetricName("top1", ALL),
    ),
    "class_folders": Reader(
        f"{READERS}.classes.folders.read",
        protocol="classes",
        on_disk="a folder of images for each class",
    ),
}


def find_benchmark(name: str) -> Reader:
    """The row of a benchmark.

    Raises:
        InputError: there is no such benchmark; names the nearest one.
    """
    if name not in BENCHMARKS:
        near = nearest_name(name, BENCHMARKS)
        raise InputError(f"there is no benchmark {quoted(name)}.{near} `itm evaluate --list` prints all.")
    return BENCHMARKS[name]
