"""Builds a Go program against Debian's golang-google-grpc-dev (GOPATH mode: no module, no download)."""

import os
import pathlib
import re
import shutil
import subprocess

from kms import REPOSITORY

GOCODE = "/usr/share/gocode"


def missing():
    """What keeps Go programs from being built here, or None."""
    for tool in ("go", "protoc", "protoc-gen-go"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if not os.path.isdir(f"{GOCODE}/src/google.golang.org/grpc"):
        return "golang-google-grpc-dev is not installed"
    return None


def build(source, work, name):
    """Builds the package in `source` into `work/name`; the KMS stubs are importable as kmsapi/v1beta1 and kmsapi/v2."""
    work = pathlib.Path(work).resolve()
    gopath = work / "gopath"
    for proto in sorted((REPOSITORY / "Sources" / "KMSWire").rglob("*.proto")):
        text = proto.read_text()
        package = re.search(r"^package\s+([\w.]+)\s*;", text, re.M).group(1)
        text = re.sub(r"^option\s+go_package\s*=.*\n", "", text, flags=re.M)
        text = re.sub(r"^(package\s.*;)", rf'\1\noption go_package = "kmsapi/{package}";', text, count=1, flags=re.M)
        staged = work / "proto" / f"{package}.proto"
        staged.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(text)
        (gopath / "src").mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["protoc", f"-I{staged.parent}", f"--go_out=plugins=grpc:{gopath / 'src'}", str(staged)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    environment = os.environ | {
        "GO111MODULE": "off",
        "GOPATH": f"{gopath}:{GOCODE}",
        "GOCACHE": os.environ.get("GOCACHE", str(work / "gocache")),
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }
    done = subprocess.run(
        ["go", "build", "-o", str(work / name), *sorted(str(f) for f in pathlib.Path(source).glob("*.go"))],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"go build {source}: {done.stdout}{done.stderr}")
    return work / name
