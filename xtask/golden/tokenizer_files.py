#!/usr/bin/env python3
"""Tiny tokenizers of every kind and the ids that their own libraries give for a few hundred nasty texts.

    python3 -m venv venv && venv/bin/pip install tokenizers==0.23.3 sentencepiece==0.2.3 tiktoken==0.14.0 \
        mistral-common==1.13.1 gguf==0.19.0 xllamacpp==2026.10.11549
    venv/bin/python xtask/golden/tokenizer_files.py crates/text/tests/data/token
    venv/bin/python xtask/golden/tokenizer_files.py compare TOKEN_IDS GGUF...

The first form trains on the sentences below and writes, per tokenizer, its file and `NAME.ids.json`: for each text of
`texts.json` the ids with special tokens parsed (`parsed`), and as plain text (`plain`, where the library can).
The second form compares our `token_ids` example (a built one) with llama.cpp on GGUF vocabularies, on random texts.
llama.cpp is called through the C interface that the xllamacpp wheel exports.
"""

import base64
import ctypes
import glob
import io
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

CORPUS = """
The quick brown fox jumps over the lazy dog. It's what we'd call a pangram, isn't it? They're all here.
A tokenizer cuts a text into pieces; the pieces have numbers; the numbers go into the model, and numbers come out.
def add(x, y):\n    return x + y  # the sum of both\n\n\nclass Point:\n\tx = 0\n\ty = 1
if (a <= b && c != d) { items[i]++; } else { return None; } // 12345 67 890 3.14159
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Übung macht den Meister.
Portez ce vieux whisky au juge blond qui fume. L'été dernier, où étiez-vous ? Ça va, garçon.
Съешь же ещё этих мягких французских булок, да выпей чаю. Привет, мир!
いろはにほへと ちりぬるを 我が世たれぞ 常ならむ。日本語のテキストです。
天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。今天天气很好。
다람쥐 헌 쳇바퀴에 타고파. 안녕하세요 세계.
نص حكيم له سر قاطع وذو شأن عظيم. مرحبا بالعالم.
The the the and and of of to to in in a a is is that for it as was with be by on not he his but at are this have
""".strip().split("\n") * 4

NASTY = json.loads(pathlib.Path(__file__).with_name("tokenizer_texts.json").read_text("utf-8"))

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def random_texts(seed, count):
    """Strings of pieces that tokenizers trip over, of random characters, and of words."""
    rng = random.Random(seed)
    pieces = [piece for text in NASTY for piece in text.split(" ") if 0 < len(piece) < 12] + [" ", "  ", "\n", "\t"]
    ranges = [(0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x5FF), (0x900, 0xDFF), (0x3040, 0x30FF), (0x4E00, 0x9FFF),
              (0xAC00, 0xD7A3), (0x1F300, 0x1F64F)]
    out = []
    for i in range(count):
        length = rng.randint(1, 24)
        if i % 3 == 0:
            out.append("".join(rng.choice(pieces) for _ in range(length)))
        elif i % 3 == 1:
            out.append("".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(length)))
        else:
            words = ["".join(rng.choice("abcdefghijklmnopqrstuvwxyzAB") for _ in range(rng.randint(1, 8)))
                     for _ in range(length // 3 + 1)]
            out.append(" ".join(words))
    return out


def write(path, rows):
    path.write_text(json.dumps(rows, ensure_ascii=True, separators=(",", ":")) + "\n")


# Hugging Face


def hugging_face(out, texts):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers import trainers

    def ids(tokenizer):
        rows = {"parsed": [tokenizer.encode(t, add_special_tokens=False).ids for t in texts],
                "framed": [tokenizer.encode(t).ids for t in texts[:20]]}
        tokenizer.encode_special_tokens = True
        rows["plain"] = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
        tokenizer.encode_special_tokens = False
        rows["decoded"] = [tokenizer.decode(i, skip_special_tokens=False) for i in rows["plain"]]
        return rows

    def save(name, tokenizer):
        tokenizer.save(str(out / f"{name}.json"), pretty=False)
        write(out / f"{name}.ids.json", ids(tokenizer))
        return tokenizer

    def bpe(name, pre, special, vocab=700, normalizer=None, **model):
        tokenizer = Tokenizer(models.BPE(**model))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoders.ByteLevel()
        if normalizer:
            tokenizer.normalizer = normalizer
        trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        tokenizer.train_from_iterator(CORPUS, trainer)
        return tokenizer

    gpt2 = bpe("gpt2", pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"])
    gpt2.add_tokens([AddedToken("<tool>", lstrip=True), AddedToken("    ", normalized=False)])
    gpt2.post_processor = processors.ByteLevel(trim_offsets=False)
    save("bpe-gpt2", gpt2)

    split = [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    llama3 = bpe("llama3", pre_tokenizers.Sequence(split), ["<|begin_of_text|>", "<|eot_id|>"], ignore_merges=True)
    llama3.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)])
    save("bpe-llama3", llama3)

    digits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    save("bpe-digits-nfc", bpe("digits", pre_tokenizers.Sequence(digits), ["<s>"], normalizer=normalizers.NFC()))

    llama = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    llama.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    llama.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    llama.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=1000, special_tokens=special, show_progress=False))
    raw = json.loads(llama.to_str())
    raw["pre_tokenizer"] = None
    raw["added_tokens"] = raw["added_tokens"][:3]
    raw["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    llama = Tokenizer.from_str(json.dumps(raw))
    llama.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    save("bpe-llama", llama)

    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.NFKC()
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    unigram.train_from_iterator(CORPUS, trainers.UnigramTrainer(
        vocab_size=500, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    save("unigram", unigram)

    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=500, special_tokens=special,
                                                               show_progress=False))
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    save("wordpiece", words)
    return gpt2


# SentencePiece


def sentence_piece(out, texts):
    import sentencepiece

    def train(name, **options):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS), model_writer=model, num_threads=1, minloglevel=2, character_coverage=0.98,
            hard_vocab_limit=False, **options)
        (out / f"{name}.model").write_bytes(model.getvalue())
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        ids = [processor.encode(t) for t in texts]
        write(out / f"{name}.ids.json", {"plain": ids, "decoded": [processor.decode(i) for i in ids]})

    rules = [("\ufb01", "fi"), ("A\u030a", "\u00c5"), ("\uff21", "A"), ("\uff11", "1"), ("\u3000", " "), ("\t", " "),
             ("\n", " "), ("\u338f", "kg"), ("\u200b", "")]
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as tsv:
        code = lambda text: " ".join(f"{ord(c):X}" for c in text)
        tsv.write("".join(f"{code(a)}\t{code(b)}\n" for a, b in rules))
        tsv.flush()
        train("spm-bpe", model_type="bpe", vocab_size=700, byte_fallback=True, user_defined_symbols=["<tool>", "\u2581\u2581"],
              normalization_rule_name="identity", remove_extra_whitespaces=False)
        train("spm-unigram", model_type="unigram", vocab_size=600, byte_fallback=True, user_defined_symbols=["<tool>"],
              normalization_rule_tsv=tsv.name)
        train("spm-unigram-unk", model_type="unigram", vocab_size=300, add_dummy_prefix=False, pad_id=3,
              normalization_rule_tsv=tsv.name)
        train("spm-bpe-unk", model_type="bpe", vocab_size=400, normalization_rule_tsv=tsv.name,
              treat_whitespace_as_suffix=True)


# tiktoken and tekken


def byte_ranks(gpt2):
    """Ranks of a byte-level BPE: the bytes, then the results of its merges in order."""
    from tokenizers import pre_tokenizers

    raw = json.loads(gpt2.to_str())["model"]
    hidden = [b for b in range(256) if not (33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255)]
    chars = {chr(b): b for b in range(256) if b not in hidden}
    chars.update({chr(256 + i): b for i, b in enumerate(hidden)})
    assert sorted(chars) == sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = [bytes([b]) for b in range(256)]
    for left, right in raw["merges"]:
        text = bytes(chars[c] for c in left + right)
        if text not in texts:
            texts.append(text)
    return {text: rank for rank, text in enumerate(texts)}


def tiktoken_and_tekken(out, texts, gpt2):
    import tiktoken
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    ranks = byte_ranks(gpt2)
    lines = [base64.b64encode(text) + b" %d\n" % rank for text, rank in ranks.items()]
    (out / "tiny.tiktoken").write_bytes(b"".join(lines))
    end = {"<|endoftext|>": len(ranks) + 4}
    encoding = tiktoken.Encoding("tiny", pat_str=CL100K, mergeable_ranks=ranks, special_tokens=end)
    write(out / "tiktoken.ids.json", {
        "plain": [encoding.encode(t, disallowed_special=()) for t in texts],
        "parsed": [encoding.encode(t, allowed_special="all") for t in texts],
        "pattern": CL100K, "special": end})

    special = [{"rank": i, "token_str": s, "is_control": True} for i, s in enumerate(["<unk>", "<s>", "</s>"])]
    special += [{"rank": i, "token_str": f"<SPECIAL_{i}>", "is_control": True} for i in range(3, 10)]
    n_vocab = len(ranks) + 10 - 7  # the file has 7 tokens more than its model
    vocab = [{"rank": r, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for t, r in ranks.items()]
    config = {"pattern": TEKKEN, "num_vocab_tokens": len(ranks), "default_vocab_size": n_vocab,
              "default_num_special_tokens": 10, "version": "v3"}
    write(out / "tekken.json", {"config": config, "vocab": vocab, "special_tokens": special})
    tekken = Tekkenizer.from_file(str(out / "tekken.json"))
    write(out / "tekken.ids.json", {"plain": [tekken.encode(t, bos=False, eos=False) for t in texts],
                                    "framed": [tekken.encode(t, bos=True, eos=False) for t in texts[:20]]})


# llama.cpp


class LlamaCpp:
    """llama.cpp's vocabulary of a GGUF file."""

    def __init__(self, path):
        import xllamacpp

        library = glob.glob(str(pathlib.Path(xllamacpp.__file__).parent / "*.so"))[0]
        self.lib = lib = ctypes.CDLL(library)

        class Params(ctypes.Structure):
            # `llama_model_params` and room for what later versions add; `vocab_only` is the first bool.
            _fields_ = [("before", ctypes.c_uint8 * 72), ("vocab_only", ctypes.c_bool), ("after", ctypes.c_uint8 * 440)]

        lib.llama_model_default_params.restype = Params
        lib.llama_model_load_from_file.argtypes = [ctypes.c_char_p, Params]
        lib.llama_model_load_from_file.restype = ctypes.c_void_p
        lib.llama_model_get_vocab.argtypes = [ctypes.c_void_p]
        lib.llama_model_get_vocab.restype = ctypes.c_void_p
        lib.llama_vocab_n_tokens.argtypes = [ctypes.c_void_p]
        lib.llama_vocab_is_eog.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        lib.llama_vocab_is_eog.restype = ctypes.c_bool
        lib.llama_tokenize.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32,
                                       ctypes.POINTER(ctypes.c_int32), ctypes.c_int32, ctypes.c_bool, ctypes.c_bool]
        self.quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        lib.llama_log_set(self.quiet, None)
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.vocab_only = True
        model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.vocab = lib.llama_model_get_vocab(model)

    def ids(self, text, add_special, parse_special):
        data = text.encode()
        room = 4 * len(data) + 16
        buffer = (ctypes.c_int32 * room)()
        n = self.lib.llama_tokenize(self.vocab, data, len(data), buffer, room, add_special, parse_special)
        assert n >= 0, text
        return list(buffer[:n])

    def ends(self):
        n = self.lib.llama_vocab_n_tokens(self.vocab)
        return [i for i in range(n) if self.lib.llama_vocab_is_eog(self.vocab, i)]


def llama_cpp(out, texts):
    """GGUF-only kinds: RWKV and PLaMo 2; T5 from the SentencePiece model above."""
    import gguf
    from sentencepiece import sentencepiece_model_pb2 as pb

    spm = pb.ModelProto.FromString((out / "spm-unigram-unk.model").read_bytes())
    t5 = {"model": "t5", "tokens": [p.piece for p in spm.pieces], "scores": [p.score for p in spm.pieces],
          "types": [int(p.type) for p in spm.pieces], "precompiled_charsmap": list(spm.normalizer_spec.precompiled_charsmap),
          "unk": 0, "eos": 2, "pad": 3, "add_space_prefix": True, "remove_extra_whitespaces": True}
    words = sorted({w for line in CORPUS for w in line.split()} | {" ", "  ", "\n", " the", "é", "日本"})
    escape = lambda raw: "".join({9: "\\t", 10: "\\n", 13: "\\r", 92: "\\\\"}.get(b) or
                                 (chr(b) if 32 <= b < 127 else f"\\x{b:02x}") for b in raw)
    rwkv = {"model": "rwkv", "tokens": ["<s>"] + [escape(bytes([b])) for b in range(256)] +
            [escape(w.encode()) for w in words if len(w.encode()) > 1], "scores": [], "types": []}
    rng = random.Random(5)
    pieces = sorted({c for line in CORPUS for c in line if ord(c) > 31} | set(words) - {"\n", ""})
    plamo = {"model": "plamo2",
             "tokens": ["<|plamo:unk|>", "<|plamo:bos|>", "<|plamo:eos|>", "<|plamo:pad|>"] +
             [f"<0x{b:02X}>" for b in range(256)] + pieces,
             "types": [2, 3, 3, 3] + [6] * 256 + [1] * len(pieces),
             "scores": [0.0] * 260 + [round(-8 - rng.random() * 3 + 2 * len(p) ** 0.5, 4) for p in pieces]}
    for name, vocab in [("gguf-t5", t5), ("gguf-rwkv", rwkv), ("gguf-plamo2", plamo)]:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "v.gguf")
            writer = gguf.GGUFWriter(path, "llama")
            writer.add_tokenizer_model(vocab["model"])
            writer.add_token_list(vocab["tokens"])
            if vocab["scores"]:
                writer.add_token_scores(vocab["scores"])
            if vocab["types"]:
                writer.add_token_types(vocab["types"])
            if "precompiled_charsmap" in vocab:
                writer.add_precompiled_charsmap(bytes(vocab["precompiled_charsmap"]))
                writer.add_unk_token_id(vocab["unk"])
                writer.add_eos_token_id(vocab["eos"])
                writer.add_pad_token_id(vocab["pad"])
                writer.add_add_space_prefix(vocab["add_space_prefix"])
                writer.add_remove_extra_whitespaces(vocab["remove_extra_whitespaces"])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.close()
            oracle = LlamaCpp(path)
            write(out / f"{name}.json", vocab)
            write(out / f"{name}.ids.json", {"plain": [oracle.ids(t, False, False) for t in texts]})


def compare(program, files):
    seed = random.randrange(1 << 32)
    texts = NASTY + random_texts(seed, 200)
    print(f"seed {seed}, {len(texts)} texts")
    for file in files:
        ran = subprocess.run([program, "gguf", file], input=json.dumps(texts), capture_output=True, text=True)
        if ran.returncode:
            print(f"{file}: {ran.stderr.strip()}")
            continue
        ours, oracle = json.loads(ran.stdout), LlamaCpp(file)
        bad = [(text, key) for text, row in zip(texts, ours["rows"])
               for key, special in [("plain", False), ("prompt", True)] if oracle.ids(text, special, special) != row[key]]
        print(f"{file}: {len(bad)} differ; ends {'agree' if oracle.ends() == ours['eog'] else 'differ'}", bad[:5])


def main():
    if sys.argv[1] == "compare":
        return compare(sys.argv[2], sys.argv[3:])
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    texts = NASTY + random_texts(20261123, 120)
    write(out / "texts.json", texts)
    gpt2 = hugging_face(out, texts)
    sentence_piece(out, texts)
    tiktoken_and_tekken(out, texts, gpt2)
    llama_cpp(out, texts)


if __name__ == "__main__":
    main()
