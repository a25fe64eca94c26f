"""Tiny narrators with random weights, of the real classes, in folders as `save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = ("a", "man", "woman", "opens", "closes", "the", "door", "red", "blue", "screen", ".", "shows", "USER", ":")
TEMPLATE = (
    "{% for message in messages %}USER : {% for part in message['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )


def make_llava(folder: Path, seed: int = 0) -> Path:
    """LLaVA: CLIP vision and Llama of two layers, with a chat template."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = _tokenizer()
    small = {"num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=32, image_size=28, patch_size=14, **small)
    text = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **small,
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image)
    torch.manual_seed(seed)
    _with_larger_weights(LlavaForConditionalGeneration(config)).save_pretrained(folder)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    return folder


def make_blip2(folder: Path, seed: int = 0) -> Path:
    """BLIP-2: four query tokens and OPT, without a chat template."""
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessor,
        OPTConfig,
    )

    tokenizer = _tokenizer()
    small = {"num_hidden_layers": 2, "num_attention_heads": 2}
    vision = Blip2VisionConfig(hidden_size=16, intermediate_size=32, image_size=28, patch_size=14, **small)
    former = Blip2QFormerConfig(
        hidden_size=16, intermediate_size=32, encoder_hidden_size=16, vocab_size=len(tokenizer), **small
    )
    text = OPTConfig(
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        max_position_embeddings=256,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **small,
    )
    config = Blip2Config(
        vision_config=vision.to_dict(), qformer_config=former.to_dict(), text_config=text.to_dict(), num_query_tokens=4
    )
    config.image_token_index = tokenizer.convert_tokens_to_ids("<image>")
    torch.manual_seed(seed)
    _with_larger_weights(Blip2ForConditionalGeneration(config)).save_pretrained(folder)
    pictures = BlipImageProcessor(size={"height": 28, "width": 28})
    Blip2Processor(pictures, tokenizer, num_query_tokens=4).save_pretrained(folder)
    return folder


def _with_larger_weights(network: Any) -> Any:
    """Make frames matter: with the weights of a network that was never trained, all of them look alike."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.mul_(12)
    return network
