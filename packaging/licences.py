"""Prints the licences of the libraries that are built into the programs: each licence asks to go where the binary goes.

Reads what cargo has unpacked to build it, for the platform this runs on; texts that several libraries share are printed once.
"""

import json
import pathlib
import subprocess
import sys

NAMES = ("license", "licence", "copying", "copyright", "notice", "unlicense")


def cargo(*arguments: str) -> str:
    return subprocess.run(["cargo", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def built_in(metadata: dict) -> set[str]:
    """The packages reached from the programs by normal dependencies: build scripts and tests are not in the binaries."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    own = set(metadata["workspace_members"])
    seen, todo = set(), list(own)
    while todo:
        for dependency in nodes[todo.pop()]["deps"]:
            normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if normal and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                todo.append(dependency["pkg"])
    return seen - own


def main() -> None:
    host = next(
        line.removeprefix("host: ")
        for line in subprocess.run(["rustc", "-vV"], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        if line.startswith("host: ")
    )
    metadata = json.loads(cargo("metadata", "--format-version=1", "--locked", f"--filter-platform={host}"))
    included = built_in(metadata)
    texts: dict[str, list[str]] = {}
    without = []
    for package in sorted(metadata["packages"], key=lambda package: (package["name"], package["version"])):
        if package["id"] not in included:
            continue
        name = f"{package['name']} {package['version']} ({package['license'] or 'see below'})"
        folder = pathlib.Path(package["manifest_path"]).parent
        found = sorted(path for path in folder.iterdir() if path.is_file() and path.name.lower().startswith(NAMES))
        if not found:
            without.append(name)
        for path in found:
            texts.setdefault(path.read_text(errors="replace").strip(), []).append(name)
    print("Libraries built into ssecast and ssecast-bench, and their licences.")
    if without:
        print("\nWithout a text of their own, under the licences named:")
        print("\n".join(f"  {name}" for name in without))
    for text, names in texts.items():
        print("\n" + "=" * 100)
        print("\n".join(f"  {name}" for name in names))
        print("-" * 100 + "\n")
        print(text)
    print(f"{len(included)} libraries, {len(texts)} texts", file=sys.stderr)


if __name__ == "__main__":
    main()
