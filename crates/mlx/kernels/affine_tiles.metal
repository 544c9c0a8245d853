// Up to 8 N rows times a transposed affine matrix, for GPUs that multiply 16 x 16 by 16 x 8 in one step: weights become f16 in
// the registers that the step reads, once for all rows. Group: 16 R rows of the matrix, or 16 of each of two (GLU), 8 waves
// that share the columns, 128 at a time, of which a lane takes 32. Three matrices of the same columns are multiplied in one
// launch where PARTS is 3, the groups of one after those of the other.
//
//   x_half, x_scales: of `rows_half`, LAYOUT BITS           w, w2, w3 [n_out, n_in * BITS / 32] u32
//   scales, biases and those of w2, w3 [n_out, n_in / GROUP]  residual [n_tok, n_out] f32 (ADD)
//   sizes [n_in, n_tok, rows of w, of w2, of w3]            y, y2, y3 [n_tok, n_out] f32
//   GLU 1: silu(w x) * (w2 x), 2: gelu(w x) * (w2 x), then also y / 16 in `pairs` as `rows_half` makes them, of LAYOUT (0:
//   not). An f16 ends at 65504: beyond 16 times that `pairs` end too.
const uint n_in = sizes[0], n_tok = sizes[1];
const uint n_block = n_in / 128, quad = lane % 4, line = lane / 4;
const uint n_row = GLU > 0 ? 16 : 16 * R;
uint part = 0, group = group_x;
if (PARTS == 3) {
  for (uint i = 0; i < 2; i++) {
    const uint n_group = (sizes[2 + i] + n_row - 1) / n_row;
    if (part == i && group >= n_group) {
      part = i + 1;
      group -= n_group;
    }
  }
}
const uint n_out = sizes[2 + part], row = group * n_row;
SHARED(float, shared_parts, 8 * R * N * 128);
SHARED(float, shared_out, GLU > 0 ? 128 * N : 1);
MATRIX(8)
float sum[R][N][4];
UNROLL
for (uint r = 0; r < R; r++) {
  UNROLL
  for (uint n = 0; n < N; n++) {
    UNROLL
    for (uint i = 0; i < 4; i++) sum[r][n][i] = 0.0f;
  }
}
for (uint block = wave; block < n_block; block += 8) {
  uint codes[R][2][BITS], scale[R][2], bias[R][2];
  UNROLL
  for (uint r = 0; r < R; r++) {
    UNROLL
    for (uint h = 0; h < 2; h++) {
      const uint wanted = row + (GLU > 0 ? 0 : 16 * r) + 8 * h + line, at = wanted < n_out ? wanted : n_out - 1;
      const uint of = at * (n_in / GROUP) + (block * 128 + quad * 32) / GROUP;
      const uint from = GLU > 0 ? r : part;
      (void)from;
      UNROLL
      for (uint i = 0; i < BITS / 4; i++) {
        const uint4 four = LOAD4(PICK(from, w, w2, w3), (at * n_block + block) * BITS + quad * (BITS / 4) + i);
        codes[r][h][4 * i] = four.x;
        codes[r][h][4 * i + 1] = four.y;
        codes[r][h][4 * i + 2] = four.z;
        codes[r][h][4 * i + 3] = four.w;
      }
      const float s = float(PICK(from, scales, scales2, scales3)[of]), b = float(PICK(from, biases, biases2, biases3)[of]);
      scale[r][h] = half_pair(s, s);
      bias[r][h] = half_pair(b, b);
    }
  }
  UNROLL
  for (uint step = 0; step < 4; step++) {
    uint4 input[N];
    UNROLL
    for (uint n = 0; n < N; n++) {
      input[n].x = input[n].y = input[n].z = input[n].w = 0;
      if (8 * n + line < n_tok) input[n] = LOAD4(x_half, ((n * n_block + block) * 4 + step) * 32 + lane);
    }
    UNROLL
    for (uint r = 0; r < R; r++) {
      uint pair[2][4];
      UNROLL
      for (uint h = 0; h < 2; h++) {
        UNROLL
        for (uint i = 0; i < 4; i++) {
          // A code under the exponent of 1024 is 1024 + code.
          const uint bits = BITS == 4 ? codes[r][h][step] >> (4 * i) & 0x000f000f
                                      : codes[r][h][2 * step % BITS + i / 2] >> (8 * (i % 2)) & 0x00ff00ff;
          pair[h][i] = pair_fma(pair_fma(bits | 0x64006400, 0x3c003c00, 0xe400e400), scale[r][h], bias[r][h]);
        }
      }
      UNROLL
      for (uint n = 0; n < N; n++) {
        MULTIPLY(sum[r][n], pair[0][0], pair[1][0], pair[0][1], pair[1][1], input[n].x, input[n].y);
        MULTIPLY(sum[r][n], pair[0][2], pair[1][2], pair[0][3], pair[1][3], input[n].z, input[n].w);
      }
    }
  }
}
UNROLL
for (uint r = 0; r < R; r++) {
  UNROLL
  for (uint n = 0; n < N; n++) {
    UNROLL
    for (uint i = 0; i < 4; i++) shared_parts[((wave * R + r) * N + n) * 128 + 32 * i + lane] = sum[r][n][i];
  }
}
BARRIER();
const uint rank = wave * 32 + lane;
for (uint i = rank; i < (GLU > 0 ? 1 : R) * N * 128; i += 256) {
  float total = 0.0f, second = 0.0f;
  for (uint p = 0; p < 8; p++) {
    total += shared_parts[p * R * N * 128 + i];
    if (GLU > 0) second += shared_parts[p * R * N * 128 + (R - 1) * N * 128 + i];
  }
  const uint token = i / 128 % N * 8 + 2 * (i % 4) + i / 32 % 2;
  const uint at = row + i / (128 * N) * 16 + i / 64 % 2 * 8 + i % 32 / 4;
  const bool inside = token < n_tok && at < n_out;
  if (inside) {
    total *= x_scales[token];
    second *= x_scales[token];
    if (GLU == 1) total *= second / (1.0f + exp(-total));
    if (GLU == 2) {
      total *= second * 0.5f * (1.0f + tanh(0.7978845608f * (total + 0.044715f * total * total * total)));
    }
    total += ADDED(token * n_out + at);
    OUT(part, y, y2, y3)[token * n_out + at] = total;
  }
  if (GLU > 0) {
    const float most = 65504.0f * 16.0f;
    total = total > most ? most : total < -most ? -most : total;
    shared_out[token * 16 + at - row] = inside ? total / 16.0f : 0.0f;
  }
}
if (LAYOUT > 0) {
  BARRIER();
  for (uint i = rank; i < 64 * N; i += 256) {
    const uint token = i / 8, run = i % 8 / 4, column = row + 8 * run;
    const uint low = LAYOUT == 4 ? i % 4 : i % 4 / 2 * 4 + i % 2, high = low + (LAYOUT == 4 ? 4 : 2);
    const uint block = column / 128, step = column % 32 / 8;
    const uint place = (((token / 8 * (n_out / 128) + block) * 4 + step) * 8 + token % 8) * 4 + column % 128 / 32;
    if (token < n_tok) {
      PAIRS(4 * place + i % 4, half_pair(shared_out[token * 16 + 8 * run + low], shared_out[token * 16 + 8 * run + high]));
    }
  }
}
