// Shapes as triangles, in the frame of the body that carries them: flat lists of corners and normals.

const TURNS = 24;  // sides of what is round

const rotated = ([w, x, y, z], [a, b, c]) => {
  const u = 2 * (y * c - z * b), v = 2 * (z * a - x * c), t = 2 * (x * b - y * a);
  return [a + w * u + y * t - z * v, b + w * v + z * u - x * t, c + w * t + x * v - y * u];
};

// A profile of [radius, height, normal outwards, normal upwards] turned about the z axis.
const revolved = (...profiles) => {
  const places = [], normals = [];
  const put = ([r, h, out, up], turn) => {
    const angle = 2 * Math.PI * turn / TURNS, x = Math.cos(angle), y = Math.sin(angle);
    places.push(r * x, r * y, h);
    normals.push(out * x, out * y, up);
  };
  for (const profile of profiles) {
    for (let i = 1; i < profile.length; i++) {
      for (let turn = 0; turn < TURNS; turn++) {
        const [a, b] = [profile[i - 1], profile[i]];
        for (const [point, side] of [[a, 0], [b, 0], [b, 1], [a, 0], [b, 1], [a, 1]]) put(point, turn + side);
      }
    }
  }
  return { places, normals };
};

const quarter = (radius, height, sign) => Array.from({ length: TURNS / 4 + 1 }, (_, i) => {
  const angle = Math.PI / 2 * (sign > 0 ? 1 - i * 4 / TURNS : -i * 4 / TURNS);
  const out = Math.cos(angle), up = Math.sin(angle);
  return [radius * out, sign * height + radius * up, out, up];
});

const capsule = ([radius, half]) => revolved([...quarter(radius, half, 1), ...quarter(radius, half, -1)]);

const cylinder = ([radius, half]) => revolved(
  [[0, half, 0, 1], [radius, half, 0, 1]],
  [[radius, half, 1, 0], [radius, -half, 1, 0]],
  [[radius, -half, 0, -1], [0, -half, 0, -1]],
);

const ellipsoid = (size) => {
  const { places, normals } = capsule([1, 0]);
  return { places: places.map((p, i) => p * size[i % 3]), normals: normals.map((n, i) => n / size[i % 3]) };
};

const box = (size) => {
  const places = [], normals = [];
  for (let axis = 0; axis < 3; axis++) {
    for (const side of [-1, 1]) {
      for (const [u, v] of [[-1, -1], [1, -1], [1, 1], [-1, -1], [1, 1], [-1, 1]]) {
        const corner = [0, 0, 0], normal = [0, 0, 0];
        corner[axis] = normal[axis] = side;
        corner[(axis + 1) % 3] = u;
        corner[(axis + 2) % 3] = v;
        places.push(...corner.map((c, i) => c * size[i]));
        normals.push(...normal);
      }
    }
  }
  return { places, normals };
};

const faceted = ({ vertices, faces }) => {
  const places = [], normals = [];
  for (let i = 0; i < faces.length; i += 3) {
    const [a, b, c] = [0, 1, 2].map((k) => vertices.slice(3 * faces[i + k], 3 * faces[i + k] + 3));
    const u = b.map((value, k) => value - a[k]), v = c.map((value, k) => value - a[k]);
    const normal = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    places.push(...a, ...b, ...c);
    normals.push(...normal, ...normal, ...normal);
  }
  return { places, normals };
};

const ENDLESS = 50;  // metres: half the side of a plane that has no edge

const SURFACES = {
  plane: ([x, y]) => box([x || ENDLESS, y || ENDLESS, 0]),
  sphere: ([radius]) => capsule([radius, 0]),
  capsule,
  cylinder,
  ellipsoid,
  box,
};

// Interleaved corners of one shape: place, normal, colour (ten numbers each).
const corners = (shape, meshes) => {
  const surface = shape.kind === "mesh" ? faceted(meshes[shape.mesh]) : SURFACES[shape.kind](shape.size);
  const { places, normals } = surface, found = [];
  for (let i = 0; i < places.length; i += 3) {
    const place = rotated(shape.quaternion, places.slice(i, i + 3));
    const normal = rotated(shape.quaternion, normals.slice(i, i + 3));
    found.push(...place.map((value, k) => value + shape.position[k]), ...normal, ...shape.colour);
  }
  return found;
};
