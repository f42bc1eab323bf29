"""Checks the library's public interface, as rustdoc describes it:

- its names are those in .ci/public.txt, so that a change of them is seen in review;
- types of other crates in it are of the crates in ALLOWED, since a new major version of one of them is a new one of this library;
- no type that is not public itself is part of it.

`python3 .ci/public.py --write` writes .ci/public.txt.
"""

import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = ROOT / ".ci/public.txt"
ALLOWED = {"std", "core", "alloc", "bytes", "http"}


def describe():
    """rustdoc's description of the library. The format is unstable, so rustdoc needs permission; Cargo and its builds don't get it."""
    with tempfile.TemporaryDirectory() as folder:
        wrapper = pathlib.Path(folder) / "rustdoc"
        wrapper.write_text('#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec "${SSECAST_RUSTDOC:-rustdoc}" "$@"\n')
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
        environment = dict(os.environ, RUSTDOC=str(wrapper), SSECAST_RUSTDOC=os.environ.get("RUSTDOC", "rustdoc"))
        command = ["cargo", "rustdoc", "--locked", "--lib", "-p", "ssecast", "--", "-Zunstable-options", "--output-format=json"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    metadata = ["cargo", "metadata", "--locked", "--no-deps", "--format-version=1"]
    target = json.loads(subprocess.run(metadata, cwd=ROOT, check=True, capture_output=True).stdout)["target_directory"]
    return json.loads((pathlib.Path(target) / "doc/ssecast.json").read_text())


def named_types(value):
    """The ids of all types and traits that a part of the description names."""
    if isinstance(value, dict):
        if "id" in value and ("path" in value or "name" in value) and "inner" not in value:
            yield value["id"]
        for part in value.values():
            yield from named_types(part)
    elif isinstance(value, list):
        for part in value:
            yield from named_types(part)


def main():
    described = describe()
    index, paths, crates = described["index"], described["paths"], described["external_crates"]
    item = lambda number: index.get(str(number))
    kind = lambda it: next(iter(it["inner"]))

    public, modules = {}, [(described["root"], "")]
    while modules:
        module, prefix = modules.pop()
        for number in item(module)["inner"]["module"]["items"]:
            it = item(number)
            if it is None:
                continue
            if kind(it) == "module":
                public[number] = prefix + it["name"]
                modules.append((number, f"{prefix}{it['name']}::"))
            elif kind(it) == "use":
                public[it["inner"]["use"]["id"]] = prefix + it["inner"]["use"]["name"]
            else:
                public[number] = prefix + it["name"]

    wrong, waiting, seen = [], list(public), set()
    while waiting:
        number = waiting.pop()
        it = item(number)
        if number in seen or it is None or it["crate_id"] != 0:
            continue
        seen.add(number)
        inner = it["inner"][kind(it)]
        if kind(it) == "impl" and (inner.get("blanket_impl") or inner.get("is_synthetic")):
            continue
        if kind(it) not in ("module", "use"):
            for used in named_types(it["inner"]):
                path = paths.get(str(used))
                if path is None:
                    continue
                name = "::".join(path["path"])
                if path["crate_id"] == 0:
                    if used not in public:
                        wrong.append(f"{it['name'] or 'an impl'} names {name}, which is not public")
                elif crates[str(path["crate_id"])]["name"] not in ALLOWED:
                    wrong.append(f"{it['name'] or 'an impl'} names {name}: its crate is not in ALLOWED")
        # Fields, variants, methods and impls belong to it.
        def parts(value):
            if isinstance(value, dict):
                for part in value.values():
                    yield from parts(part)
            elif isinstance(value, list):
                for part in value:
                    yield from parts(part)
            elif isinstance(value, int) and not isinstance(value, bool):
                yield value
        waiting += [part for key in ("items", "impls", "variants", "kind", "fields") for part in parts(inner.get(key) if isinstance(inner, dict) else None)]

    names = "".join(f"{name}\n" for name in sorted(public.values()))
    if "--write" in sys.argv:
        NAMES.write_text(names)
    elif names != NAMES.read_text():
        before = set(NAMES.read_text().split())
        wrong += [f"new: {name}" for name in sorted(set(names.split()) - before)]
        wrong += [f"gone: {name}" for name in sorted(before - set(names.split()))]
        wrong.append("python3 .ci/public.py --write writes .ci/public.txt: see what follows from the change for the next version")
    for line in dict.fromkeys(wrong):
        print(f"public interface: {line}", file=sys.stderr)
    if len(seen) < len(public):
        sys.exit(f"public interface: only {len(seen)} of {len(public)} items were read: rustdoc's format has changed")
    print(f"public interface: {len(public)} names, {len(seen)} items read")
    sys.exit(1 if wrong else 0)


main()
