"""How do others draw the same views? Embree, Open3D and OpenGL on a CPU, each in one thread.

Each gives what the renderer gives without supersampling: shaded colour by its light formula on flat
normals, depth along the viewing axis, and face ids; building the scene is part of the drawing.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass

# Mesa's software renderer reads it when it is loaded: draw in the calling thread.
os.environ["LP_NUM_THREADS"] = "0"

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float32, Int32, UInt8

from picpoint.geometry.cameras import Cameras
from picpoint.render.meshes import Mesh

_SHADER_LIGHT = """
#version 330
in vec3 place;
uniform vec3 camera;
uniform vec3 diffuse;
layout(location = 0) out vec4 colour;
layout(location = 1) out float depth;
layout(location = 2) out int face;
void main() {
    vec3 normal = normalize(cross(dFdx(place), dFdy(place)));
    vec3 ray = normalize(place - camera);
    float along = dot(normal, ray);
    float towards_sky = along < 0.0 ? normal.y : -normal.y;
    colour = vec4(diffuse * (0.30 + 0.45 * abs(along) + 0.10 * (1.0 + towards_sky)), 1.0);
    depth = 1.0 / gl_FragCoord.w;
    face = gl_PrimitiveID + 1;
}
"""
_SHADER_PROJECT = """
#version 330
in vec3 vertex;
out vec3 place;
uniform mat4 world_to_clip;
void main() {
    place = vertex;
    gl_Position = world_to_clip * vec4(vertex, 1.0);
}
"""


@dataclass(frozen=True, slots=True)
class PeerViews:
    """What another renderer shows: the fields of a `Rendering`, one sample a pixel."""

    colour: UInt8[np.ndarray, "V S S 3"]
    depth: Float32[np.ndarray, "V S S"]
    face_id: Int32[np.ndarray, "V S S"]


def find_peers(cameras: Cameras) -> dict[str, Callable[[Mesh], PeerViews]]:
    """Give those that this machine has, by name; print a word on each that it has not."""
    peers: dict[str, Callable[[Mesh], PeerViews]] = {
        "embreex": lambda mesh: embree_views(mesh, cameras)
    }
    makers = {"open3d": _open3d_views, "moderngl": _opengl_views}
    for name, make in makers.items():
        try:
            peers[name] = make(cameras)
        except Exception as error:  # whatever a foreign library or driver fails with
            print(f"{name} is left out: {error} (pip install 'picpoint[bench]')")
    return peers


def embree_views(mesh: Mesh, cameras: Cameras) -> PeerViews:
    """Cast one of Embree's rays for each pixel."""
    scene = EmbreeScene()
    TriangleMesh(scene, mesh.vertices, mesh.faces)
    views = _empty_views(cameras)
    directions = _camera_rays(cameras)
    for view, position in enumerate(cameras.positions):
        rays = np.ascontiguousarray(directions @ cameras.view_matrices[view, :3, :3])
        origins = np.broadcast_to(position, rays.shape).copy()
        hit = scene.run(origins, rays, output=True)
        face_id = hit["primID"].astype(np.int32)
        _store(views, view, mesh, face_id, hit["tfar"] * -directions[:, 2], hit["Ng"], rays)
    return views


def _open3d_views(cameras: Cameras) -> Callable[[Mesh], PeerViews]:
    """Cast one of Open3D's rays for each pixel."""
    open3d = importlib.import_module("open3d")
    core = open3d.core

    def draw_views(mesh: Mesh) -> PeerViews:
        scene = open3d.t.geometry.RaycastingScene(nthreads=1)
        scene.add_triangles(
            core.Tensor.from_numpy(mesh.vertices),
            core.Tensor.from_numpy(mesh.faces.astype(np.uint32)),
        )
        views = _empty_views(cameras)
        directions = _camera_rays(cameras)
        for view, position in enumerate(cameras.positions):
            rays = directions @ cameras.view_matrices[view, :3, :3]
            lines = np.empty((len(rays), 6), np.float32)
            lines[:, :3], lines[:, 3:] = position, rays
            hit = scene.cast_rays(core.Tensor.from_numpy(lines), nthreads=1)
            # What was not hit has the largest unsigned number: -1.
            face_id = hit["primitive_ids"].numpy().view(np.int32)
            depth = hit["t_hit"].numpy() * -directions[:, 2]
            _store(views, view, mesh, face_id, depth, hit["primitive_normals"].numpy(), rays)
        return views

    return draw_views


def _opengl_views(cameras: Cameras) -> Callable[[Mesh], PeerViews]:
    """Rasterize with OpenGL off the screen, by Mesa's llvmpipe where there is no GPU."""
    moderngl = importlib.import_module("moderngl")
    context = moderngl.create_context(standalone=True, backend="egl", require=330)
    if "llvmpipe" not in context.info["GL_RENDERER"]:
        raise RuntimeError(f"OpenGL draws with {context.info['GL_RENDERER']}, not on the CPU")
    program = context.program(vertex_shader=_SHADER_PROJECT, fragment_shader=_SHADER_LIGHT)
    context.enable(moderngl.DEPTH_TEST)
    size = (cameras.size_px, cameras.size_px)
    targets = [
        context.texture(size, 4),
        context.texture(size, 1, dtype="f4"),
        context.texture(size, 1, dtype="i4"),
    ]
    frame = context.framebuffer(targets, context.depth_renderbuffer(size))
    frame.use()

    def draw_views(mesh: Mesh) -> PeerViews:
        corners = context.buffer(mesh.vertices)
        drawing = context.vertex_array(
            program, [(corners, "3f", "vertex")], context.buffer(mesh.faces)
        )
        program["diffuse"] = mesh.materials[0].diffuse
        views = _empty_views(cameras)
        for view, position in enumerate(cameras.positions):
            matrix = cameras.projection_matrices[view] @ cameras.view_matrices[view]
            program["world_to_clip"].write(np.ascontiguousarray(matrix.T))
            program["camera"] = tuple(position.tolist())
            frame.clear()
            drawing.render()
            shape = views.face_id.shape[1:]
            colour = np.frombuffer(frame.read(components=4), np.uint8).reshape(*shape, 4)
            depth = frame.read(components=1, attachment=1, dtype="f4")
            face_id = frame.read(components=1, attachment=2, dtype="i4")
            views.face_id[view] = np.frombuffer(face_id, np.int32).reshape(shape)[::-1] - 1
            views.depth[view] = np.frombuffer(depth, np.float32).reshape(shape)[::-1]
            views.colour[view] = colour[::-1, :, :3]
            empty = views.face_id[view] < 0
            views.depth[view][empty], views.colour[view][empty] = np.inf, 255
        drawing.release()
        corners.release()
        return views

    return draw_views


def _empty_views(cameras: Cameras) -> PeerViews:
    shape = (len(cameras.view_matrices), cameras.size_px, cameras.size_px)
    return PeerViews(
        colour=np.empty((*shape, 3), np.uint8),
        depth=np.empty(shape, np.float32),
        face_id=np.empty(shape, np.int32),
    )


def _camera_rays(cameras: Cameras) -> Float32[np.ndarray, "P 3"]:
    """Give unit rays through the pixel centres, row by row, in the frame of a camera."""
    centre = ((np.arange(cameras.size_px) + 0.5) / cameras.size_px * 2 - 1).astype(np.float32)
    tangent = 1 / cameras.projection_matrices[0, 0, 0]
    x, y = np.meshgrid(centre * tangent, -centre * tangent)
    rays = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _store(
    views: PeerViews,
    view: int,
    mesh: Mesh,
    face_id: Int32[np.ndarray, " P"],
    depth: Float32[np.ndarray, " P"],
    normals: Float32[np.ndarray, "P 3"],
    rays: Float32[np.ndarray, "P 3"],
) -> None:
    """Shade what the rays of a view hit, and store it."""
    shape = views.face_id.shape[1:]
    empty = face_id < 0
    views.face_id[view] = face_id.reshape(shape)
    views.depth[view] = np.where(empty, np.float32(np.inf), depth).reshape(shape)
    views.colour[view] = _shade(mesh, normals, rays, empty).reshape(*shape, 3)


def _shade(
    mesh: Mesh,
    normals: Float32[np.ndarray, "P 3"],
    rays: Float32[np.ndarray, "P 3"],
    empty: Bool[np.ndarray, " P"],
) -> UInt8[np.ndarray, "P 3"]:
    """Light flat faces of one material as picpoint.render.shading does."""
    along = np.einsum("pc,pc->p", normals, rays)
    length = np.maximum(np.linalg.norm(normals, axis=1), 1e-30)
    towards_sky = np.where(along < 0, normals[:, 1], -normals[:, 1]) / length
    light = 0.30 + 0.45 * np.abs(along) / length + 0.10 * (1 + towards_sky)
    diffuse = np.array(mesh.materials[0].diffuse, np.float32)
    colour = (255 * light[:, None] * diffuse + 0.5).astype(np.uint8)
    colour[empty] = 255
    return colour
