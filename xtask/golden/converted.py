"""Opens what `mlx-run convert` writes of the golden checkpoints with llama.cpp, transformers and mlx-lm; compares logits.

For each golden Hugging Face checkpoint: a GGUF of it, read by llama.cpp; the Hugging Face folder of that GGUF, read by
transformers; MLX folders of the checkpoint and of the GGUF, and one of 8 bits, read by mlx-lm. An opening is

    ok      its logits are golden.logits (of 8 bits: those of `mlx-run logits` of the same values), NMSE below 1e-6
    known   the owner computes something otherwise, which is proven: of a checkpoint edited so that this one thing cannot
            show (converted_edits.py), it gives the logits of `mlx-run logits`
    same    the owner gives these very logits for the checkpoint as it was, without us
    none    the owner says that it does not have the architecture, or we say so of GGUF
    BAD     anything else; the exit code is then 1

Needs PyPI torch, transformers, mlx-cpu, mlx-lm; for llama.cpp its source, its libraries and g++. Owners that are absent
are skipped. Never needed to build or test. --write writes the counts to docs/convert.md.

    cargo build --release -p mlxr-cli && python xtask/golden/converted.py [--llama SOURCE --libraries FOLDER] [NAME...]
"""

import argparse
import functools
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections import Counter

import numpy as np
from converted_edits import EDITS
from converted_page import page

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "crates/models/tests/data/hf"
LIMIT = 1e-6
# What owners, and we of GGUF, say of architectures that they do not have.
ABSENT = re.compile(r"Model type \w+ not supported|SystemExit|GGUF has no architecture")


def golden(path):
    data = path.read_bytes()
    n, v = np.frombuffer(data[:8], "<i4")
    ids = np.frombuffer(data[8 : 8 + 4 * n], "<i4")
    return ids, np.frombuffer(data[8 + 4 * n :], "<f4").reshape(n, v)


def nmse(got, want):
    return float(((got - want) ** 2).sum() / (want**2).sum())


def last_line(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return re.sub(r"/\S+/", "", lines[-1])[:150] if lines else "no message"


def transformers_logits(path, ids):
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    # By its own name, since the mapping of classes lacks some.
    name_of_class = json.loads((path / "config.json").read_text())["architectures"][0]
    kind = getattr(transformers, name_of_class, transformers.AutoModelForCausalLM)
    model, info = kind.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    odd = {k: sorted(v)[:2] for k, v in info.items() if v and k in ("missing_keys", "unexpected_keys")}
    if odd:
        raise RuntimeError(str(odd))
    with torch.no_grad():
        return model.eval()(torch.tensor(ids[None].astype(np.int64))).logits[0].float().numpy()


@functools.cache
def mlx():
    """MLX and mlx-lm's loader."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    gather = mx.gather_qmm
    # mlx-lm passes an argument, None here, that MLX 0.32.2 does not have yet.
    mx.gather_qmm = lambda *args, global_scale=None, **how: gather(*args, **how)
    return mx, load_model


def mlx_logits(path, ids):
    mx, load_model = mlx()
    model, _ = load_model(pathlib.Path(path), lazy=False)
    model.set_dtype(mx.float32)
    return np.array(model(mx.array(ids[None]))[0].astype(mx.float32))


# What is opened: by whom, made of the GGUF or of the checkpoint, options of `convert`, and who reads it.
F32 = ["--type", "f32"]
OPENINGS = {
    "llama.cpp": (False, F32, None),
    "transformers": (True, ["--to", "hf", *F32], transformers_logits),
    "mlx-lm": (False, ["--to", "mlx", *F32], mlx_logits),
    "mlx-lm of GGUF": (True, ["--to", "mlx", *F32], mlx_logits),
    "mlx-lm, 8 bits": (False, ["--bits", "8", "--group", "32"], mlx_logits),
}


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder, self.llama_program = args, folder, None
        if args.llama:
            self.llama_program = folder / "llama_logits"
            source, libraries = pathlib.Path(args.llama), args.libraries
            include = [f"-I{source / 'include'}", f"-I{source / 'ggml/include'}"]
            link = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lllama", "-lggml", "-lggml-base"]
            cpp = ROOT / "xtask/golden/llama_logits.cpp"
            subprocess.run(["g++", "-O1", "-std=c++17", *include, cpp, "-o", self.llama_program, *link], check=True)
        else:
            print("SKIPPED: llama.cpp, give --llama and --libraries")

    def run(self, *command):
        done = subprocess.run([self.args.mlx_run, *command], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {last_line(done.stderr)}")

    def openings(self):
        wanted = self.args.owners.split(",") if self.args.owners else []
        absent = [] if self.llama_program else ["llama.cpp"]
        return [o for o in OPENINGS if o not in absent and (not wanted or any(w in o for w in wanted))]

    def make(self, opening, source, folder):
        """What is opened, made of a Hugging Face folder."""
        of_gguf, how, _ = OPENINGS[opening]
        gguf = folder / "model.gguf"
        if (of_gguf or opening == "llama.cpp") and not gguf.exists():
            self.run("convert", source, gguf, "--no-tokenizer", *F32)
        if opening == "llama.cpp":
            return gguf
        out = folder / re.sub(r"\W", "-", opening)
        self.run("convert", gguf if of_gguf else source, out, "--no-tokenizer", *how)
        return out

    def own_logits(self, model, ids, out):
        self.run("logits", "-m", model, "--tokens", ",".join(map(str, ids)), "-o", out)
        return out

    def error(self, opening, made, want):
        """The NMSE of what an owner computes."""
        if opening == "llama.cpp":
            done = subprocess.run([self.llama_program, made, want], capture_output=True, text=True)
            if done.returncode:
                found = re.search(r"error loading model: (.*)|(GGML_ASSERT.*)", done.stderr)
                raise RuntimeError(last_line(found.group(0) if found else done.stderr))
            return float(done.stdout)
        ids, logits = golden(want)
        return nmse(OPENINGS[opening][2](made, ids), logits)

    def open(self, opening, source, want, folder):
        """What is made of a checkpoint, opened and compared."""
        made = self.make(opening, source, folder)
        if "bits" in opening:  # of the same values in f32: products of codes are rounded
            plain = folder / "bits-f32"
            self.run("convert", made, plain, "--no-tokenizer", "--to", "mlx", *F32)
            want = self.own_logits(plain, golden(want)[0], folder / "bits.logits")
        return self.error(opening, made, want)

    def edited(self, opening, name, edit):
        """The owner's error on the edited checkpoint."""
        from safetensors.torch import load_file, save_file

        source, folder = DATA / name, self.folder / f"edited-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        edited = folder / "checkpoint"
        edited.mkdir(parents=True)
        config, tensors = json.loads((source / "config.json").read_text()), {}
        for file in source.glob("*.safetensors"):
            tensors |= {name: tensor.float() for name, tensor in load_file(file).items()}
        edit(config, tensors)
        (edited / "config.json").write_text(json.dumps(config))
        save_file(tensors, edited / "model.safetensors", {"format": "pt"})
        ids, _ = golden(source / "golden.logits")
        return self.open(opening, edited, self.own_logits(edited, ids, folder / "want.logits"), folder)

    def same(self, opening, name, folder):
        """How far the owner's logits are from those that it gives for the checkpoint as it was."""
        ids, _ = golden(DATA / name / "golden.logits")
        made = folder / re.sub(r"\W", "-", opening)
        return nmse(mlx_logits(made, ids), mlx_logits(DATA / name, ids))

    def judge(self, opening, name, folder):
        """Class, text and, where it is known, the reason of an opening."""
        result = attempt(lambda: self.open(opening, DATA / name, DATA / name / "golden.logits", folder))
        if fine(result):
            return "ok", text(result), None
        if isinstance(result, str) and ABSENT.search(result):
            return "none", result, None
        for owner, reason, edit in EDITS.get(name, []):
            if owner != opening and not (owner == "mlx-lm" and owner in opening):
                if "convert tells" not in reason or not OPENINGS[opening][0]:
                    continue
            proof = attempt(lambda: self.edited(opening, name, edit))
            if fine(proof):
                return "known", f"{text(result)} ({reason}: edited {text(proof)})", reason
            result = f"{text(result)} ({reason}: edited {text(proof)})"
        if "mlx-lm" in opening and "bits" not in opening:
            far = attempt(lambda: self.same(opening, name, folder))
            if fine(far):
                return "same", f"{text(result)}, of the checkpoint as it was too ({text(far)})", "the same without us"
            result = f"{text(result)}; as it was: {text(far)}"
        return "BAD", text(result), None


def fine(result):
    return isinstance(result, float) and result < LIMIT


def attempt(job):
    """What it gives, or a text of why not."""
    try:
        return job()
    except (Exception, SystemExit) as error:  # mlx-lm exits where it lacks a package
        return f"{type(error).__name__}: {last_line(str(error))}"


def text(result):
    return f"{result:.1e}" if isinstance(result, float) else result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mlx-run", default=ROOT / "target/release/mlx-run")
    parser.add_argument("--llama", help="llama.cpp's source")
    parser.add_argument("--libraries", help="folder of llama.cpp's shared libraries")
    parser.add_argument("--owners", help="some of llama.cpp, transformers, mlx-lm")
    parser.add_argument("--write", action="store_true", help="write docs/convert.md")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, pathlib.Path(folder))
        for name in args.names or sorted(p.name for p in DATA.iterdir()):
            for opening in bench.openings():
                out = bench.folder / name
                out.mkdir(exist_ok=True)
                results[name, opening] = kind, shown, _ = bench.judge(opening, name, out)
                print(f"{name:20} {opening:15} {kind:5} {shown}", flush=True)
            shutil.rmtree(bench.folder / name)
    for opening in bench.openings():
        print(opening, dict(Counter(kind for (_, o), (kind, *_) in results.items() if o == opening)))
    if args.write:
        (ROOT / "docs/convert.md").write_text(page(results))
    raise SystemExit(any(kind == "BAD" for kind, *_ in results.values()))


if __name__ == "__main__":
    main()
