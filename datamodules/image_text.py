"""The DataModule: kept positives with online-mixed negatives for training, whole images for validation."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from datamodules.batch import Collator, ImageTextBatch
from datamodules.benchmarks.pairs import Pairs
from datamodules.debias import BlindLogits, Debias, read_blind_logits
from datamodules.loaders import CountedRows, EpochBatches, LateLoader, start_worker
from datamodules.mixed_rows import MixedRows
from datamodules.mixing import build_pool, rank_rows, set_paraphrases_aside, texts_of_pairs
from datamodules.mixing_settings import UNITS, Mixing
from datamodules.pixels import MAX_PIXELS
from datamodules.sources.image_rows import ImageRows
from datamodules.sources.images import check_images
from datamodules.sources.tables import SOURCE, read_neighbours, read_tables
from negatives.filtering import harmonise_table, random_subset
from negatives.tables import (
    InputError,
    StrPath,
    is_harmonised,
    judged_unit,
    pair_table,
    pair_verdicts_beside,
    read_pair_verdicts,
    read_verdicts,
    text_table,
)


class ImageTextDataModule(L.LightningDataModule):
    """Training rows mixed online from tables on disk, and pairs for validation.

    Call `connect(module.collator())` before use: the backbone decides what a batch's `inputs` are.

    Args:
        captions, negatives: paths of the tables, one or several of each.
        verdicts: path of the filter's verdicts; needed for subsets "kept" and "random", and for `debias`. Where the
            filter judged pairs, its verdicts on them lie beside this file, and decide where the mixing's unit is
            "pair".
        subset: "all", "kept", or "random" (as many texts of each class, or pairs of each type, as were kept, drawn at
            random).
        harmonise: each negative takes its positive's casing, final punctuation and white space, as `itm filter` judged
            them by default; verdicts on texts of the other kind are refused.
        image_root: folder of the images; the captions table's folder where None.
        neighbours: table of images near each other (`itm neighbours`); each row is then accompanied by one of a
            neighbour of its image, see `MixedRows`.
        mixing: how negatives join positives; one negative for each caption where None.
        debias: rows carry the logits of the verdicts' judges, for a loss that takes them; none where None.
        batch_size: rows, each of one image, in a batch on each rank; those of neighbours come on top.
        num_workers: loader processes on each rank.
        validation: pairs for the learning curves.
        max_pixels: larger images are refused, see `datamodules.pixels.check_pixels`.
        seed: of the draw and of the order.

    Raises:
        InputError: settings that contradict each other; in `setup`, unusable tables; in the loaders, too few rows.
    """

    def __init__(
        self,
        captions: StrPath | list[StrPath],
        negatives: StrPath | list[StrPath],
        *,
        verdicts: str | Path | None = None,
        subset: str = "all",
        harmonise: bool = True,
        image_root: str | Path | None = None,
        neighbours: StrPath | None = None,
        mixing: Mixing | None = None,
        debias: Debias | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        validation: Pairs | None = None,
        max_pixels: int = MAX_PIXELS,
        seed: int = 0,
    ):
        super().__init__()
        self.mixing = mixing or Mixing()
        if self.mixing.unit not in UNITS:
            raise InputError(f"data.mixing.unit must be one of {', '.join(UNITS)}, got {self.mixing.unit!r}.")
        if subset != "all" and verdicts is None:
            raise InputError(f"data.subset={subset} needs data.verdicts: run `itm filter` and give its verdicts.")
        if debias is not None and verdicts is None:
            raise InputError("data.debias=offset needs data.verdicts: run `itm filter` and give its verdicts.")
        # what was kept has no such bias any more: the logits, which are of all texts, would turn it round
        if debias is not None and subset == "kept":
            raise InputError("data.debias=offset needs data.subset=all (or random), got kept: it drops no text.")
        if image_root is None and isinstance(captions, list):
            raise InputError("data.image_root must be given where data.captions lists several tables.")
        self.captions, self.negatives, self.verdicts, self.subset = captions, negatives, verdicts, subset
        self.harmonise, self.debias = harmonise, debias
        self.root = Path(image_root) if image_root is not None else Path(captions).parent  # type: ignore[arg-type]
        self.neighbours, self.max_pixels, self.seed = neighbours, max_pixels, seed
        self.batch_size, self.num_workers, self.validation = batch_size, num_workers, validation
        self.collate: Collator | None = None
        self.rows: MixedRows | None = None

    def connect(self, collator: Collator) -> None:
        """Takes the backbone's collator."""
        self.collate = collator

    def setup(self, stage: str | None = None) -> None:
        """Reads the tables, checks that all images exist and indexes the kept texts."""
        # `itm train` calls this first, for the tokenizer's words, and then Lightning does
        if self.rows is not None:
            return
        captions, negatives = read_tables(self.captions, self.negatives)
        # before anything else looks at a text: verdicts are on harmonised texts, and so is what the scorer reads
        if self.harmonise:
            negatives = harmonise_table(captions, negatives)
        texts, pairs = text_table(captions, negatives), pair_table(captions, negatives)
        images = dict(zip(captions["image_id"].to_pylist(), captions["image"].to_pylist(), strict=True))
        check_images(self.root, list(images.values()))  # of dropped captions too: a missing file is better known now
        pool = build_pool(texts, pairs, *self._keep(texts, pairs))
        if self.mixing.paraphrase_ratio is not None:
            set_paraphrases_aside(pool, texts, self._sources(captions))
        if not pool.anchors:
            raise InputError(f"{self.captions}: no positive is left to train on; loosen the filter.")
        neighbours = read_neighbours(self.neighbours, images) if self.neighbours is not None else None
        self.rows = MixedRows(
            texts,
            pool,
            images,
            self.root,
            mixing=self.mixing,
            seed=self.seed,
            neighbours=neighbours,
            max_pixels=self.max_pixels,
            blind_logits=self._blind_logits(texts, pairs),
        )

    def captions_to_train_on(self) -> list[str]:
        """All texts of the training tables, kept or not: the words that a tokenizer has to know."""
        if self.rows is None:
            raise RuntimeError("Call setup() before asking for captions.")
        return self.rows.captions

    def images_to_train_on(self) -> dict[str, str]:
        """image_id -> path inside `root`, of every image that a row can be of: those with a kept positive."""
        if self.rows is None:
            raise RuntimeError("Call setup() before asking for images.")
        # neighbours and paraphrases add none: both are kept positives of these images
        names = dict.fromkeys(self.rows.image_ids[group[0]] for group in self.rows.anchors)
        return {name: self.rows.images[name] for name in names}

    def _sources(self, captions: pa.Table) -> dict[str, str]:
        """The caption_id of each paraphrase, and of the caption behind it."""
        names = captions["caption_id"].to_pylist()
        sources = captions[SOURCE].to_pylist() if SOURCE in captions.column_names else [None] * len(names)
        source_of = {name: source for name, source in zip(names, sources, strict=True) if source not in (None, name)}
        if not source_of:
            raise InputError(
                f"data.mixing.paraphrase_ratio needs paraphrases, and no caption names a {SOURCE} ({self.captions}); "
                "list a table of paraphrases in data.captions, or leave it out."
            )
        return source_of

    def _keep(self, texts: pa.Table, pairs: pa.Table) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Which texts and which pairs to train on, where not all (see `build_pool`)."""
        if self.subset == "all" or self.verdicts is None:
            return None, None
        self._check_harmonised(self.verdicts)
        # Texts that look balanced beside each other need not be balanced one by one, so this is said, not refused.
        if self.mixing.unit == "text" and judged_unit(self.verdicts) == "pair":
            rank_zero_warn(
                f"data.mixing.unit: text draws single texts, and {self.verdicts} promises nothing of those: pairs were "
                "judged. Filter with unit: text or both, or set data.mixing.unit=pair."
            )
        beside = pair_verdicts_beside(self.verdicts) if self.mixing.unit == "pair" else None
        if beside is not None:
            keep_pairs = _flags(read_pair_verdicts(beside, pairs))
            if self.subset == "random":
                types, *ids = (pairs[name].to_pylist() for name in ("negative_type", "caption_id", "negative_id"))
                names = ["/".join(couple) for couple in zip(*ids, strict=True)]
                keep_pairs = random_subset(np.array(types), keep_pairs, names, self.seed)
            return texts_of_pairs(texts, pairs, keep_pairs), keep_pairs
        keep = _flags(read_verdicts(self.verdicts, texts))
        if self.subset == "random":
            keep = random_subset(texts["label"].to_numpy(), keep, texts["text_id"].to_pylist(), self.seed)
        return keep, None

    def _blind_logits(self, texts: pa.Table, pairs: pa.Table) -> BlindLogits | None:
        if self.debias is None or self.verdicts is None:
            return None
        self._check_harmonised(self.verdicts)
        return read_blind_logits(self.verdicts, texts, pairs, self.debias, drawn=self.mixing.unit)

    def _check_harmonised(self, verdicts: StrPath) -> None:
        judged = is_harmonised(verdicts)
        if judged not in (None, self.harmonise):
            raise InputError(
                f"data.harmonise must be as in the verdicts' filter, {str(judged).lower()}, got "
                f"{str(self.harmonise).lower()} ({verdicts}): other texts were judged. Set "
                f"data.harmonise={str(judged).lower()}, or run `itm filter` again."
            )

    def _check_connected(self) -> None:
        if self.rows is None or self.collate is None:
            raise RuntimeError("Call setup() and connect(module.collator()) before asking for a loader.")

    def train_dataloader(self) -> DataLoader[ImageTextBatch]:
        """Mixed rows; the sampler hands whole batches to the data set, so nothing depends on the worker."""
        self._check_connected()
        assert self.rows is not None
        rank, world_size = self._rank()
        batches = EpochBatches(
            len(self.rows),
            batch_size=self.batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            done=self._batches_done,
        )
        if not len(batches):
            raise InputError(f"data has {len(self.rows)} rows for {world_size} ranks; give each rank one.")
        return LateLoader(
            self.rows,  # type: ignore[arg-type]
            # the sampler yields whole batches, so nothing is left to batch
            batch_size=None,
            sampler=batches,
            collate_fn=self.collate,
            num_workers=self.num_workers,
            worker_init_fn=start_worker,
            # or they would be started anew in every epoch, tables and all
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader[ImageTextBatch] | list[DataLoader[ImageTextBatch]]:
        """A row for each positive with its own negatives, dealt out to the ranks in equally many batches."""
        if self.validation is None:
            return []
        self._check_connected()
        rank, world_size = self._rank()
        # pairs: a positive against its own negatives only, as the benchmarks compare
        rows = ImageRows(
            self.validation.captions,
            self.validation.negatives,
            self.validation.root,
            pairs=True,
            max_pixels=self.max_pixels,
        )
        if not len(rows):
            raise InputError("data.validation has no captions; check its tables and image_ids.")
        return LateLoader(
            CountedRows(rows),  # type: ignore[arg-type]
            batch_size=self.batch_size,
            sampler=rank_rows(len(rows), rank=rank, world_size=world_size),
            collate_fn=self.collate,
            num_workers=self.num_workers,
            worker_init_fn=start_worker,
        )

    def state_dict(self) -> dict[str, int]:
        """What a position in the data is one of; the position itself is Lightning's count of batches."""
        assert self.rows is not None
        return {"rows": len(self.rows)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Checks that the data is what it was when the checkpoint was written.

        Raises:
            InputError: it has another number of rows.
        """
        rows = 0 if self.rows is None else len(self.rows)
        if rows != state_dict["rows"]:
            raise InputError(
                f"data has {rows} rows and had {state_dict['rows']} when the checkpoint was written; restore the "
                "tables, or start anew with --overwrite."
            )

    def _batches_done(self) -> int:
        """How many batches of its epoch a run has trained on: Lightning's count, which checkpoints restore."""
        # batch_idx is the last one that was trained on, -1 before the first
        return self.trainer.fit_loop.batch_idx + 1 if self.trainer and self.trainer.training else 0

    def _rank(self) -> tuple[int, int]:
        """This process's rank, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def _flags(verdicts: pa.Table) -> np.ndarray:
    keep: np.ndarray = verdicts["keep"].to_numpy(zero_copy_only=False)
    return keep
