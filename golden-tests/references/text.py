"""Tiny tokenizers trained on text made here, and what they make of difficult strings."""

import json
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

# Clitics; a word with at most one leading mark; up to three digits; punctuation with its line ends; white space.
SPLIT = (
    r"'(?i:s|t|m|d|re|ve|ll)"
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
CHAT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SENTENCE_TOKENS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def corpus():
    """Sentences of a small grammar, with some other scripts so that a few merges cross byte boundaries."""
    pick = random.Random(11).choice
    who = ["The miller", "A grey heron", "Our neighbour's dog", "She", "Nobody", "An old lamp", "Zoë", "Der Müller"]
    does = ["doesn't carry", "was counting", "will have mended", "paints", "can't find", "remembers", "we're told, sells"]
    what = ["seven kettles", "the wooden bridge", "1024 nails", "a café table", "3.14 metres of rope", "日本語の本", "привет"]
    ends = [".", "!", "?", ";\n", " again.", ", and then rested.", " (twice)…", " 🙂"]
    return [f"{pick(who)} {pick(does)} {pick(what)}{pick(ends)}" for _ in range(600)]


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=480, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    # As in published chat tokenizers, the special ids come after the ordinary ones.
    tokenizer.add_special_tokens(CHAT_TOKENS)
    tokenizer.add_special_tokens([AddedToken("<|tool|>", rstrip=True)])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    return tokenizer


def sentence_post_processor(tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )


def unigram():
    """As converted from SentencePiece with its newer settings: Metaspace does the spaces."""
    base = Tokenizer(models.Unigram())
    base.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=260, special_tokens=SENTENCE_TOKENS, unk_token="<unk>", max_piece_length=8, show_progress=False
    )
    base.train_from_iterator([line for line in corpus() if line.isascii()], trainer)
    pieces = json.loads(base.to_str())["model"]["vocab"]
    lowest = min(score for _, score in pieces)
    vocabulary = [(token, 0.0) for token in SENTENCE_TOKENS]
    vocabulary += [(token, lowest - 10.0) for token in BYTES]
    # Six places are plenty; shorter numbers read the same everywhere. Ties are broken by the piece.
    rest = [(piece, round(score, 6)) for piece, score in pieces if piece not in SENTENCE_TOKENS]
    vocabulary += sorted(rest, key=lambda item: (-item[1], item[0]))
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(SENTENCE_TOKENS)
    sentence_post_processor(tokenizer)
    return tokenizer


def sentence_bpe():
    """As converted from SentencePiece with its older settings: BPE over whole strings, spaces by the normalizer."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=220, show_progress=False)
    base.train_from_iterator([line for line in corpus() if line.isascii()], trainer)
    trained = json.loads(base.to_str())["model"]
    ordered = sorted(trained["vocab"], key=trained["vocab"].get)
    vocabulary = {token: index for index, token in enumerate([*SENTENCE_TOKENS, *BYTES, *ordered])}
    merges = [tuple(merge) for merge in trained["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(SENTENCE_TOKENS)
    sentence_post_processor(tokenizer)
    return tokenizer


TEXTS = [
    "",
    " ",
    "   ",
    "The miller paints the wooden bridge.",
    " leading space",
    "   three leading spaces",
    "trailing space ",
    "trailing spaces   ",
    "two  spaces   three    four",
    "tabs\tand\t\tmore \t mixed",
    "line\nline\n\nline\r\nline\r\n\r\n",
    "\n",
    "\n\n  indented\n    more\n",
    "  \n  \n x",
    "it's IT'S we'll WE'LL don't I'm you've she'd they're o'clock 'tis",
    "1 12 123 1234 12345 1234567890 3.14 -7 1e-9 0x1F",
    "a1b2 c3\u00b2 \u2167 ½",
    "fn main() { println!(\"{}\", x[0] += 1); } // ok?",
    "!?...;;;\n---\n#$%^&*()",
    "http://example.com/a?b=c&d=%20#e",
    "日本語の本 中文文本 한국어",
    "привет мир Ωμέγα",
    "مرحبا بالعالم שלום",
    "नमस्ते दुनिया ไทย",
    "e\u0301 n\u0303 o\u0308 \u0301alone Z\u0351\u036b\u0343",
    "é ñ ö Å Å ﬁ ｆｕｌｌ ①",
    "🙂 👍🏽 🇫🇷 ❤️ ☃",
    "👨\u200d👩\u200d👧\u200d👦 family, 🏳️\u200d🌈",
    "zero\u200bwidth\u200djoin\u2060er \ufeffbom",
    "nbsp\u00a0here\u3000ideographic\u2009thin",
    "a\u0000b \u007f \u0085 \u2028sep",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠜎",
    "▁under ▁▁score _ __",
    "<0x41> <0xE2>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]
CHAT_TEXTS = [
    "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
    "a<|im_end|>b <|im_end|> c",
    "<|im_start|><|im_start|> <|im_end|>",
    "<|im_start |> <|im_end| <|IM_END|>",
    "<think>\n\n</think>\n\nThe miller<|endoftext|>",
    "call <|tool|> \n now<|tool|>",
]
SENTENCE_TEXTS = ["<s> hello </s>", "a</s>b", "</s></s> x", "<unk> y", "<s", " <s> The miller</s> "]


def byte_ids(tokenizer, data):
    """One token per byte, whatever merges there are."""
    if tokenizer.token_to_id(BYTES[0]) is not None:
        return [tokenizer.token_to_id(BYTES[byte]) for byte in data]
    # The byte-level alphabet keeps printable Latin-1 bytes and moves the others above U+0100 in order.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    moved = iter(char for char in alphabet if ord(char) >= 256)
    names = [chr(byte) if chr(byte) in alphabet else next(moved) for byte in range(256)]
    return [tokenizer.token_to_id(names[byte]) for byte in data]


def encoded(name, tokenizer, text, special):
    ids = tokenizer.encode(text, add_special_tokens=special).ids
    return decoded(name, tokenizer, ids) | {"text": text, "add_special_tokens": special}


def decoded(name, tokenizer, ids):
    return {
        "tokenizer": name,
        "text": None,
        "ids": ids,
        "decoded": tokenizer.decode(ids, skip_special_tokens=False),
        "decoded_without_special": tokenizer.decode(ids, skip_special_tokens=True),
    }


def split_characters(name, tokenizer):
    """Ids that end inside, start inside or break a UTF-8 character; no text encodes to these."""
    smile, han = "🙂".encode(), "語".encode()
    pieces = [smile[:1], smile[:3], smile[1:], smile[:2] + b"a", b"a" + smile + han[:2], han[1:] + han, b"\xff\xfe"]
    pieces += [b"\x80", b"ok\xc3", b"\xc3\xa9", smile * 2, b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b" \xe2\x96"]
    cases = [decoded(name, tokenizer, byte_ids(tokenizer, piece)) for piece in pieces]
    word = tokenizer.encode("The miller", add_special_tokens=False).ids
    special = tokenizer.token_to_id("<|im_end|>") or tokenizer.token_to_id("</s>")
    mixed = [
        word + byte_ids(tokenizer, smile[:2]) + word,
        byte_ids(tokenizer, smile[:2]) + [special] + byte_ids(tokenizer, smile[2:]),
        [special] + word + [special],
        word[-1:],
        [],
    ]
    return cases + [decoded(name, tokenizer, ids) for ids in mixed]


def make(folder):
    cases = []
    for name, build, own in (
        ("bytelevel", byte_level, CHAT_TEXTS),
        ("unigram", unigram, SENTENCE_TEXTS),
        ("sentencebpe", sentence_bpe, SENTENCE_TEXTS),
    ):
        path = folder / name / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        build().save(str(path), pretty=False)
        # Cases come from the file, not from the object in memory.
        tokenizer = Tokenizer.from_file(str(path))
        cases += [encoded(name, tokenizer, text, False) for text in TEXTS + own]
        cases += [encoded(name, tokenizer, text, True) for text in ["", "The miller"] + own]
        cases += split_characters(name, tokenizer)
    lines = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    (folder / "cases.json").write_text(f"[\n{lines}\n]\n")
