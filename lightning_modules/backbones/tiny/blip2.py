"""A tiny BLIP-2 built from a config: the real classes with few layers, for the demo, for tests and for new ideas."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable

from tokenizers import normalizers, pre_tokenizers
from torch import nn
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessorPil,
    OPTConfig,
    PreTrainedTokenizerBase,
)

from lightning_modules.backbones.settings import TinyShape

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
POSITIONS = 128


def train_bert_tokenizer(texts: Iterable[str], vocab_size: int) -> BertTokenizer:
    """A lower-case BERT tokenizer (WordPiece) whose pieces are the most frequent words of `texts`.

    All printable ASCII characters are pieces, at the start of a word and within, so that no such text is unknown.
    The pieces are counted here: the library's trainer breaks ties by an order that differs between processes, and
    every rank has to come to the same tokenizer.
    """
    normalize, split = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in split.pre_tokenize_str(normalize.normalize_str(text)))
    characters = sorted(set(string.ascii_lowercase + string.digits + string.punctuation))
    fixed = [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
    frequent = sorted(words, key=lambda word: (-words[word], word))[: max(0, vocab_size - len(fixed))]
    pieces = dict.fromkeys([*fixed, *frequent])
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, do_lower_case=True)


def tiny_blip2_processor(shape: TinyShape, texts: Iterable[str]) -> Blip2Processor:
    """A BLIP-2 processor for `shape`, with a tokenizer trained on `texts`."""
    return Blip2Processor(
        image_processor=BlipImageProcessorPil(size={"height": shape.image_size, "width": shape.image_size}),
        tokenizer=train_bert_tokenizer(texts, shape.vocab_size),
    )


def tiny_blip2(shape: TinyShape, tokenizer: PreTrainedTokenizerBase) -> Blip2ForImageTextRetrieval:
    """A BLIP-2 with random weights for this tokenizer; seed torch first.

    Unlike the published Q-Former (0.1) it has no dropout: training is short, and tests compare forward passes.
    """
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=shape.vision_hidden_size,
            intermediate_size=2 * shape.vision_hidden_size,
            num_hidden_layers=shape.vision_layers,
            num_attention_heads=max(1, shape.vision_hidden_size // 32),
            image_size=shape.image_size,
            patch_size=shape.patch_size,
            initializer_range=shape.initializer_range,  # 1e-10 where not given
        ),
        qformer_config=Blip2QFormerConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.hidden_size,
            intermediate_size=2 * shape.hidden_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            max_position_embeddings=POSITIONS,
            initializer_range=shape.initializer_range,
            pad_token_id=tokenizer.pad_token_id,
            use_qformer_text_input=True,
        ),
        # Blip2Config wants a language model; this class builds none.
        text_config=OPTConfig(
            vocab_size=3, hidden_size=1, ffn_dim=1, num_hidden_layers=1, num_attention_heads=1, word_embed_proj_dim=1
        ),
        num_query_tokens=shape.queries,
        image_text_hidden_size=shape.hidden_size,
        image_token_index=None,
        initializer_range=shape.initializer_range,
    )
    blip2 = Blip2ForImageTextRetrieval(config)
    # Transformers leaves them at 0, where all queries stay alike for long; LAVIS draws them as BERT's weights.
    nn.init.normal_(blip2.query_tokens, std=shape.initializer_range)
    return blip2
