"""Opens what `mlx-run convert` writes of the golden checkpoints with llama.cpp, transformers and mlx-lm; compares logits.

For each golden Hugging Face checkpoint: a GGUF of it, read by llama.cpp; the Hugging Face folder of that GGUF, read by
transformers; MLX folders of the checkpoint and of the GGUF, read by mlx-lm. Numbers are squared error over squared
magnitude beside golden.logits; what an owner does not read is told with its reason, and is an error unless it is known
and proven. Needs PyPI torch, transformers, mlx-cpu, mlx-lm; for llama.cpp its source, its libraries and g++. Owners that are
absent are skipped. Where llama.cpp computes otherwise, its reason is proven on an edited checkpoint (converted_edits.py).
Never needed to build or test.

    cargo build --release -p mlxr-cli && python xtask/golden/converted.py [--llama SOURCE --libraries FOLDER] [NAME...]
"""

import argparse
import json
import pathlib
import re
import subprocess
import tempfile

import numpy as np
from converted_edits import LLAMA_CPP

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "crates/models/tests/data/hf"
LIMIT = 1e-6
# What owners say of architectures that they do not have.
ABSENT = re.compile(r"Model type \w+ not supported|SystemExit")


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


class Owners:
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

    def convert(self, source, out, *how):
        command = [self.args.mlx_run, "convert", source, out, "--type", "f32", "--no-tokenizer", *how]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError("convert: " + last_line(done.stderr))

    def llama(self, path, name, want=None):
        if not self.llama_program:
            return None
        command = [self.llama_program, path, want or DATA / name / "golden.logits"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            found = re.search(r"error loading model: (.*)|(GGML_ASSERT.*)", done.stderr)
            raise RuntimeError(last_line(found.group(0) if found else done.stderr))
        return float(done.stdout)

    def proof(self, name, owner, edit):
        """The owner's error on the edited checkpoint, beside `mlx-run logits`."""
        from safetensors.torch import load_file, save_file

        source, edited = DATA / name, self.folder / f"{name}-edited"
        edited.mkdir(exist_ok=True)
        config, tensors = json.loads((source / "config.json").read_text()), {}
        for file in source.glob("*.safetensors"):
            tensors |= {name: tensor.float() for name, tensor in load_file(file).items()}
        edit(config, tensors)
        (edited / "config.json").write_text(json.dumps(config))
        save_file(tensors, edited / "model.safetensors", {"format": "pt"})
        ids, _ = golden(source / "golden.logits")
        want, gguf = self.folder / f"{name}.logits", self.folder / f"{name}-edited.gguf"
        command = [self.args.mlx_run, "logits", "-m", edited, "--tokens", ",".join(map(str, ids)), "-o", want]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError("logits: " + last_line(done.stderr))
        self.convert(edited, gguf)
        if owner == "llama.cpp":
            return self.llama(gguf, name, want)
        out, to, read = self.folder / f"{name}-edited-{owner}", *FOLDERS[owner]
        self.convert(gguf, out, "--to", to)
        return read(self, out, name, want)

    def transformers(self, path, name, want=None):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        ids, want = golden(want or DATA / name / "golden.logits")
        # By its own name, since the mapping of classes lacks some.
        name_of_class = json.loads((path / "config.json").read_text())["architectures"][0]
        kind = getattr(transformers, name_of_class, transformers.AutoModelForCausalLM)
        model, info = kind.from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        odd = {k: sorted(v)[:2] for k, v in info.items() if v and k in ("missing_keys", "unexpected_keys")}
        with torch.no_grad():
            logits = model.eval()(torch.tensor(ids[None].astype(np.int64))).logits[0].float().numpy()
        error = nmse(logits, want)
        if odd:
            raise RuntimeError(f"{odd} {error:.1e}")
        return error

    def mlx(self, path, name, want=None):
        import mlx.core as mx
        from mlx_lm.utils import load_model

        mx.set_default_device(mx.cpu)
        ids, want = golden(want or DATA / name / "golden.logits")
        model, _ = load_model(pathlib.Path(path), lazy=False)
        model.set_dtype(mx.float32)
        return nmse(np.array(model(mx.array(ids[None]))[0].astype(mx.float32)), want)


# Form and reader of folders that are made of a GGUF file.
FOLDERS = {"transformers": ("hf", Owners.transformers), "mlx-lm of GGUF": ("mlx", Owners.mlx)}


def check(owners, name):
    """What each owner says of a checkpoint: an error, or a text."""
    folder = owners.folder / name
    folder.mkdir()
    gguf, results = folder / "model.gguf", {}
    steps = [
        ("llama.cpp", DATA / name, gguf, [], owners.llama),
        ("transformers", gguf, folder / "hf", ["--to", "hf"], owners.transformers),
        ("mlx-lm", DATA / name, folder / "mlx", ["--to", "mlx"], owners.mlx),
        ("mlx-lm of GGUF", gguf, folder / "mlx-gguf", ["--to", "mlx"], owners.mlx),
    ]
    for owner, source, out, how, read in steps:
        if owners.args.owners and out != gguf and not any(o in owner for o in owners.args.owners.split(",")):
            continue
        results[owner] = attempt(lambda: (owners.convert(source, out, *how), read(out, name))[1])
    return results


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
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        owners = Owners(args, pathlib.Path(folder))
        for name in args.names or sorted(p.name for p in DATA.iterdir()):
            for owner, result in check(owners, name).items():
                fine = result is None or (isinstance(result, float) and result < LIMIT)
                mark, shown = "ok" if fine else "BAD", text(result)
                if isinstance(result, str) and ABSENT.search(result):
                    fine, mark = True, "none"
                reason, edit = LLAMA_CPP.get(name, (None, None))
                if not fine and reason and (owner == "llama.cpp" or owner in FOLDERS and "convert tells" in reason):
                    proof = attempt(lambda: owners.proof(name, owner, edit))
                    fine = isinstance(proof, float) and proof < LIMIT
                    mark, shown = "known" if fine else "BAD", f"{shown} ({reason}: edited {text(proof)})"
                bad += not fine
                print(f"{name:20} {owner:15} {mark:5} {shown}", flush=True)
    print(f"{bad} unexpected")
    raise SystemExit(bad > 0)


if __name__ == "__main__":
    main()
