"""Checks that no dependency says it needs a later Rust than Cargo.toml's `rust-version`."""

import json
import subprocess
import sys


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:2]]


host = next(line.removeprefix("host: ") for line in run("rustc", "-vV").splitlines() if line.startswith("host: "))
metadata = json.loads(run("cargo", "metadata", "--format-version=1", "--locked", f"--filter-platform={host}"))
packages = {package["id"]: package for package in metadata["packages"]}
oldest = packages[metadata["resolve"]["root"]]["rust_version"]
used = [packages[node["id"]] for node in metadata["resolve"]["nodes"]]
later = [
    f"{package['name']} {package['version']} needs Rust {package['rust_version']}"
    for package in used
    if package["rust_version"] and numbers(package["rust_version"]) > numbers(oldest)
]
if later:
    sys.exit(f"Cargo.toml says rust-version = {oldest}, but: " + "; ".join(later))
print(f"none of {len(used)} packages needs a later Rust than {oldest}")
