// The scene in WebGL: one buffer of triangles for the world and one for each moving body.

const VERTEX = `#version 300 es
layout(location = 0) in vec3 place;
layout(location = 1) in vec3 normal;
layout(location = 2) in vec4 colour;
uniform mat4 view, body;
uniform vec3 light;
uniform vec2 shift;     // of lines, in the picture: they are drawn side by side to be wider than a pixel
uniform float ground;
uniform bool shadow;
out vec3 at, facing;
out vec4 painted;
void main() {
  vec4 point = body * vec4(place, 1.0);
  float height = max(point.z - ground, 0.0);
  if (shadow) point.xyz = vec3(point.xy - light.xy / light.z * height, ground);
  at = point.xyz;
  facing = mat3(body) * normal;
  painted = colour;
  gl_Position = view * point;
  gl_Position.xy += shift * gl_Position.w;
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec3 at, facing;
in vec4 painted;
uniform vec3 light, eye, middle, floorColour, lineColour;
uniform vec4 tint;      // in place of the shape's own colour where it is not wholly transparent
uniform float spacing, reach;
uniform int mode;       // 0: lit, 1: as painted, 2: floor
out vec4 result;
void main() {
  vec4 colour = tint.a > 0.0 ? tint : painted;
  if (mode == 2) {
    vec2 cell = at.xy / spacing, width = fwidth(cell);
    vec2 away = abs(fract(cell - 0.5) - 0.5) / max(width, 1e-6);
    float line = (1.0 - min(min(away.x, away.y), 1.0)) * (1.0 - smoothstep(0.1, 0.5, max(width.x, width.y)));
    float far = 1.0 - smoothstep(0.4, 1.0, distance(at.xy, middle.xy) / reach);
    result = vec4(mix(floorColour, lineColour, line), 1.0) * far;
    return;
  }
  if (mode == 0) {
    vec3 outwards = normalize(facing);
    if (dot(outwards, eye - at) < 0.0) outwards = -outwards;
    float lit = 0.45 + 0.15 * outwards.z + 0.45 * max(dot(outwards, light), 0.0);
    colour.rgb *= lit;
  }
  result = vec4(colour.rgb * colour.a, colour.a);
}`;

const LIGHT = [0.32, -0.26, 0.91];
const IDENTITY = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];

// Position and quaternion (w first) -> a 4 x 4 matrix, column by column.
const placed = ([x, y, z, ...turn]) => {
  const columns = [[1, 0, 0], [0, 1, 0], [0, 0, 1]].map((axis) => [...rotated(turn, axis), 0]);
  return [...columns.flat(), x, y, z, 1];
};

// Camera -> projection times view, column by column; `aspect` is the picture's width over its height.
const projection = ({ eye, axes, distance, slope }, aspect) => {
  const near = distance / 100, far = distance * 60;
  const [right, up, ahead] = axes, depth = (far + near) / (far - near), shift = 2 * far * near / (far - near);
  const along = (axis) => axis.reduce((sum, value, i) => sum + value * eye[i], 0);
  const rows = [
    [...right.map((v) => v / (slope * aspect)), -along(right) / (slope * aspect)],
    [...up.map((v) => v / slope), -along(up) / slope],
    [...ahead.map((v) => v * depth), -along(ahead) * depth - shift],
    [...ahead, -along(ahead)],
  ];
  return [0, 1, 2, 3].flatMap((column) => rows.map((row) => row[column]));
};

class Painter {
  // Null where the browser has no WebGL.
  static on(canvas, recording) {
    const gl = canvas.getContext("webgl2", { antialias: true, stencil: true, preserveDrawingBuffer: true });
    return gl ? new Painter(gl, canvas, recording) : null;
  }

  constructor(gl, canvas, recording) {
    Object.assign(this, { gl, canvas, recording });
    this.program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(this.program, shader);
    }
    gl.linkProgram(this.program);
    if (!gl.getProgramParameter(this.program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(this.program));
    gl.useProgram(this.program);
    const groups = new Map();
    for (const shape of recording.shapes) {
      const key = `${shape.body} ${shape.colour[3] < 1}`;
      if (!groups.has(key)) groups.set(key, { body: shape.body, clear: shape.colour[3] < 1, numbers: [] });
      const { numbers } = groups.get(key);
      for (const number of corners(shape, recording.meshes)) numbers.push(number);
    }
    this.parts = [...groups.values()].map(({ body, clear, numbers }) => ({ body, clear, ...this.buffer(numbers) }));
    const plain = { position: [0, 0, 0], quaternion: [1, 0, 0, 0], colour: [1, 1, 1, 1] };
    this.ball = this.buffer(corners({ ...plain, kind: "sphere", size: [recording.marker_radius] }));
    this.floor = this.buffer(corners({ ...plain, kind: "plane", size: [1, 1] }));
    this.line = this.buffer([]);
    this.locations = {};
  }

  buffer(numbers) {
    const { gl } = this, array = gl.createVertexArray(), data = gl.createBuffer();
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ARRAY_BUFFER, data);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(numbers), gl.STATIC_DRAW);
    [3, 3, 4].forEach((size, i) => {
      gl.enableVertexAttribArray(i);
      gl.vertexAttribPointer(i, size, gl.FLOAT, false, 40, [0, 12, 24][i]);
    });
    return { array, data, count: numbers.length / 10 };
  }

  set(name, ...values) {
    const { gl } = this;
    this.locations[name] ??= gl.getUniformLocation(this.program, name);
    const at = this.locations[name];
    if (values.length === 16) gl.uniformMatrix4fv(at, false, values);
    else if (name === "mode" || name === "shadow") gl.uniform1i(at, values[0]);
    else gl[`uniform${values.length}f`](at, ...values);
  }

  // `view`: eye, axes (right, up, ahead), target, distance, slope; `shown`: poses, marker, path, past.
  draw(view, shown, colours) {
    const { gl, canvas, recording } = this;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(...colours.panel, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT | gl.STENCIL_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.depthFunc(gl.LEQUAL);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    this.set("view", ...projection(view, canvas.width / canvas.height));
    this.set("light", ...LIGHT);
    this.set("eye", ...view.eye);
    this.set("shift", 0, 0);
    this.set("shadow", 0);
    this.set("tint", 0, 0, 0, 0);
    this.drawFloor(view, colours);
    this.drawShadows(shown.poses);
    this.set("mode", 0);
    this.drawParts(shown.poses, (part) => !part.clear);
    this.drawPath(shown, colours);
    this.drawParts(shown.poses, (part) => part.clear);
    this.drawGoal(shown.marker, view, colours);
  }

  drawFloor(view, colours) {
    const { gl, recording } = this, reach = 12 * view.distance, [x, y] = view.target;
    this.set("mode", 2);
    this.set("body", reach, 0, 0, 0, 0, reach, 0, 0, 0, 0, 1, 0, x, y, recording.ground, 1);
    this.set("middle", x, y, recording.ground);
    this.set("reach", reach);
    this.set("spacing", spacingFor(view.distance));
    this.set("floorColour", ...colours.floor);
    this.set("lineColour", ...colours.rule);
    gl.depthMask(false);  // what reaches a little into the floor is still seen
    gl.enable(gl.POLYGON_OFFSET_FILL);
    gl.polygonOffset(1, 1);
    this.triangles(this.floor);
    gl.disable(gl.POLYGON_OFFSET_FILL);
    gl.depthMask(true);
  }

  drawShadows(poses) {
    const { gl, recording } = this;
    this.set("mode", 1);
    this.set("shadow", 1);
    this.set("ground", recording.ground);
    this.set("tint", 0, 0, 0, 0.22);
    gl.enable(gl.STENCIL_TEST);  // once a pixel, however many shapes lie in the light's way
    gl.stencilFunc(gl.EQUAL, 0, 255);
    gl.stencilOp(gl.KEEP, gl.KEEP, gl.INCR);
    gl.depthMask(false);
    this.drawParts(poses, () => true);
    gl.depthMask(true);
    gl.disable(gl.STENCIL_TEST);
    this.set("shadow", 0);
    this.set("tint", 0, 0, 0, 0);
  }

  drawParts(poses, chosen) {
    for (const part of this.parts.filter(chosen)) {
      this.set("body", ...(part.body === null ? IDENTITY : placed(poses.slice(7 * part.body, 7 * part.body + 7))));
      this.triangles(part);
    }
  }

  // Faint through walls, and clear where nothing is before it; among walls with a pole above them.
  drawGoal(marker, view, colours) {
    const { gl, recording } = this, [x, y, z] = marker;
    this.set("mode", 0);
    this.set("body", 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, x, y, z, 1);
    gl.enable(gl.CULL_FACE);
    for (const [hidden, alpha] of [[true, 0.2], [false, 0.45]]) {
      if (hidden) gl.disable(gl.DEPTH_TEST); else gl.enable(gl.DEPTH_TEST);
      this.set("tint", ...colours.goal, alpha);
      this.triangles(this.ball);
    }
    gl.disable(gl.CULL_FACE);
    this.set("tint", 0, 0, 0, 0);
    const top = recording.mobile ? recording.ground + 0.12 * recording.camera.distance : z;
    this.lines([[x, y, recording.ground], [x, y, top]], colours.goal, 0.9);
  }

  drawPath({ path, past }, colours) {
    this.lines(path, colours.path, 0.3);
    this.lines(path.slice(0, past), colours.path, 1);
  }

  lines(points, colour, alpha) {
    const { gl, canvas } = this;
    const numbers = points.flatMap((point) => [...point, 0, 0, 1, ...colour, alpha]);
    gl.bindVertexArray(this.line.array);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.line.data);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(numbers), gl.STREAM_DRAW);
    this.set("mode", 1);
    this.set("body", ...IDENTITY);
    for (const [right, up] of [[0, 0], [1, 0], [0, 1], [1, 1]]) {
      this.set("shift", 2 * right / canvas.width, 2 * up / canvas.height);
      gl.drawArrays(gl.LINE_STRIP, 0, points.length);
    }
    this.set("shift", 0, 0);
  }

  triangles({ array, count }) {
    this.gl.bindVertexArray(array);
    this.gl.drawArrays(this.gl.TRIANGLES, 0, count);
  }
}

// Between the floor's lines: 1, 2 or 5 of a power of ten.
const spacingFor = (distance) => {
  const rough = distance / 12, power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= rough);
};
