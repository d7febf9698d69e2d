"""The tokenizer of Mistral-7B-Instruct-v0.3 from the package mistral-common (Apache-2.0), without a hub.

python mistral_tokenizer.py FOLDER        in an environment with mistral-common, sentencepiece, protobuf, tokenizers
"""

import argparse
import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

MODEL = "mistral_instruct_tokenizer_240323.model.v3"
SPECIAL = (2, 3)  # SentencePiece's types of unknown and control pieces
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + '[/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant speak') }}{% endif %}{% endfor %}"
)


def merges(vocabulary: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, the most probable pieces first."""
    found = []
    for piece, number in vocabulary.items():
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocabulary and piece[i:] in vocabulary]
        found += [(pair, number) for pair in sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))]
    return [pair for pair, number in sorted(found, key=lambda entry: -scores[entry[1]])]


def main(folder: Path) -> None:
    import mistral_common
    from sentencepiece import sentencepiece_model_pb2 as sentencepiece

    content = sentencepiece.ModelProto()
    content.ParseFromString((Path(mistral_common.__file__).parent / "data" / MODEL).read_bytes())
    vocabulary = {piece.piece: number for number, piece in enumerate(content.pieces)}
    pairs = merges(vocabulary, [piece.score for piece in content.pieces])
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    space = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(space)
    special = [piece.piece for piece in content.pieces if piece.type in SPECIAL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **named, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
