"""Broken mesh files without end, made from small sound ones of every format."""

import base64
import json
from collections.abc import Iterator

import numpy as np
import trimesh

SUFFIXES = (".glb", ".gltf", ".obj", ".off", ".ply", ".stl", ".wrl")
# What breaks readers: limits of integers and floats, and words that mean something somewhere.
WORDS = (
    b"0", b"-1", b"1", b"2147483647", b"-2147483649", b"4294967296", b"9" * 30, b"1e308", b"1e-320",
    b"nan", b"inf", b"-0", b"1.#QNAN", b".", b"-", b"e", b"//", b"1/", b"/1", b"#", b"\\\n", b"\r",
    b"\0", b"\xff", b"{", b"}", b"[", b"]", b'"', b",", b"f", b"v ", b"vt", b"\nf 1 2 3\n",
    b"usemtl", b"mtllib a.obj", b"OFF", b"DEF a ", b"USE a", b"PROTO a [ ] {", b"element face",
    b"end_header", b"solid", b"endsolid", b"facet", b'"count":', b'"byteOffset":',
    b'"children":[0]',
)  # fmt: skip


def sound_files() -> dict[str, list[bytes]]:
    """Write some small meshes in every format, with materials, colours and nested nodes."""
    box, ball = trimesh.creation.box(), trimesh.creation.icosphere(subdivisions=1)
    ball.visual = trimesh.visual.ColorVisuals(ball, vertex_colors=ball.vertices[:, [0, 1, 2]] > 0)
    scene = trimesh.Scene([box, ball])
    scene.graph.update(frame_to="again", geometry=next(iter(scene.geometry)), matrix=np.eye(4) * 2)
    files: dict[str, list[bytes]] = {suffix: [] for suffix in SUFFIXES}
    for suffix in (".obj", ".off", ".ply", ".stl"):
        for mesh in (box, ball):
            content = mesh.export(file_type=suffix[1:])
            files[suffix].append(content.encode() if isinstance(content, str) else content)
    files[".stl"].append(box.export(file_type="stl_ascii").encode())
    files[".ply"].append(ball.export(file_type="ply", encoding="ascii"))
    files[".glb"].append(scene.export(file_type="glb"))
    files[".gltf"].append(gltf(box))
    files[".wrl"].append(wrl(box))
    return files


def gltf(mesh: trimesh.Trimesh) -> bytes:
    """Write a glTF file that holds its buffers itself."""
    parts = mesh.export(file_type="gltf")
    header = json.loads(parts["model.gltf"])
    for buffer in header["buffers"]:
        content = base64.b64encode(parts[buffer["uri"]]).decode()
        buffer["uri"] = f"data:application/octet-stream;base64,{content}"
    return json.dumps(header).encode()


def wrl(mesh: trimesh.Trimesh, times: int = 2) -> bytes:
    """Write a VRML file that places a mesh, and once more each further time."""
    points = ", ".join(f"{x} {y} {z}" for x, y, z in mesh.vertices)
    index = ", ".join(f"{a} {b} {c} -1" for a, b, c in mesh.faces)
    again = "Transform { translation 2 0 0 rotation 0 1 0 0.5 scale 1 2 1 children [ USE body ] }\n"
    return f"""#VRML V2.0 utf8
DEF body Shape {{
  appearance Appearance {{ material DEF red Material {{ diffuseColor 1 0 0 }} }}
  geometry IndexedFaceSet {{ coord Coordinate {{ point [{points}] }} coordIndex [{index}] }}
}}
{again * (times - 1)}""".encode()


def broken_files(seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield suffix and content of broken files without end, the same for the same seed."""
    generator = np.random.default_rng(seed)
    files = sound_files()
    every = [content for contents in files.values() for content in contents]
    breaks = (nudge, flip, cut, splice, insert_words, repeat, nonsense)
    while True:
        suffix = SUFFIXES[generator.integers(len(SUFFIXES))]
        content = files[suffix][generator.integers(len(files[suffix]))]
        for _ in range(1 + (generator.random() < 0.3)):
            breaking = generator.choice(breaks, p=(0.4, 0.25, 0.1, 0.1, 0.1, 0.02, 0.03))
            content = breaking(generator, content, every)
        yield suffix, content


def nudge(generator: np.random.Generator, content: bytes, others: list[bytes]) -> bytes:
    """Change some digits into others."""
    damaged = bytearray(content)
    digits = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
    for place in generator.choice(digits, generator.integers(1, 6)) if digits else ():
        damaged[place] = 48 + generator.integers(10)
    return bytes(damaged)


def flip(generator: np.random.Generator, content: bytes, others: list[bytes]) -> bytes:
    """Change some bytes."""
    damaged = bytearray(content)
    for _ in range(generator.integers(1, 4) if damaged else 0):
        damaged[generator.integers(len(damaged))] = generator.integers(256)
    return bytes(damaged)


def cut(generator: np.random.Generator, content: bytes, others: list[bytes]) -> bytes:
    """Leave out the end."""
    return content[: generator.integers(len(content) + 1)]


def splice(generator: np.random.Generator, content: bytes, others: list[bytes]) -> bytes:
    """Put the end of another file behind a beginning."""
    other = others[generator.integers(len(others))]
    return content[: generator.integers(len(content) + 1)] + other[generator.integers(len(other)) :]


def insert_words(generator: np.random.Generator, content: bytes, others: list[bytes]) -> bytes:
    """Replace some bytes by words that mean something."""
    for _ in range(generator.integers(1, 4)):
        place = generator.integers(len(content) + 1)
        after = place + generator.integers(6)
        content = content[:place] + WORDS[generator.integers(len(WORDS))] + content[after:]
    return content


def repeat(generator: np.random.Generator, content: bytes, others: list[bytes]) -> bytes:
    """Say a piece many times."""
    begin, end = sorted(generator.integers(len(content) + 1, size=2))
    piece = content[begin : min(end, begin + 200)]
    return content[:begin] + piece * int(generator.integers(1, 2000)) + content[begin:]


def nonsense(generator: np.random.Generator, content: bytes, others: list[bytes]) -> bytes:
    """Keep the first bytes and go on at random."""
    return content[: generator.integers(100)] + generator.bytes(generator.integers(500))
