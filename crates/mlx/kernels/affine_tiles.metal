// Up to 8 N rows times a transposed affine matrix, for GPUs that multiply 16 x 16 by 16 x 8 in one step: weights become f16 in
// the registers that the step reads, once for all rows. Group: 16 R rows of the matrix, or 16 of each of two (GLU), 8 waves
// that share the columns, 128 at a time, of which a lane takes 32.
//
//   x_half, x_scales: of `rows_half`, LAYOUT BITS          w, w2 [n_out, n_in * BITS / 32] u32
//   scales, biases, scales2, biases2 [n_out, n_in / GROUP]  residual [n_tok, n_out] f32 (ADD)
//   sizes [n_in, n_out, n_tok]                              y [n_tok, n_out] f32
//   GLU 1: silu(w x) * (w2 x), 2: gelu(w x) * (w2 x)
const uint n_in = sizes[0], n_out = sizes[1], n_tok = sizes[2];
const uint n_block = n_in / 128, quad = lane % 4, line = lane / 4;
const uint row = group_x * (GLU > 0 ? 16 : 16 * R);
SHARED(float, shared_parts, 8 * R * N * 128);
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
      const uint group = at * (n_in / GROUP) + (block * 128 + quad * 32) / GROUP;
      const bool second = GLU > 0 && r == 1;
      UNROLL
      for (uint i = 0; i < BITS / 4; i++) {
        const uint place = (at * n_block + block) * BITS + quad * (BITS / 4) + i;
        const uint4 four = second ? LOAD4(w2, place) : LOAD4(w, place);
        codes[r][h][4 * i] = four.x;
        codes[r][h][4 * i + 1] = four.y;
        codes[r][h][4 * i + 2] = four.z;
        codes[r][h][4 * i + 3] = four.w;
      }
      const float s = float(second ? scales2[group] : scales[group]), b = float(second ? biases2[group] : biases[group]);
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
for (uint i = wave * 32 + lane; i < (GLU > 0 ? 1 : R) * N * 128; i += 256) {
  float total = 0.0f, second = 0.0f;
  for (uint part = 0; part < 8; part++) {
    total += shared_parts[part * R * N * 128 + i];
    if (GLU > 0) second += shared_parts[part * R * N * 128 + (R - 1) * N * 128 + i];
  }
  const uint token = i / 128 % N * 8 + 2 * (i % 4) + i / 32 % 2;
  const uint at = row + i / (128 * N) * 16 + i / 64 % 2 * 8 + i % 32 / 4;
  if (token < n_tok && at < n_out) {
    total *= x_scales[token];
    second *= x_scales[token];
    if (GLU == 1) total *= second / (1.0f + exp(-total));
    if (GLU == 2) {
      total *= second * 0.5f * (1.0f + tanh(0.7978845608f * (total + 0.044715f * total * total * total)));
    }
    if (ADD == 1) total += residual[token * n_out + at];
    y[token * n_out + at] = total;
  }
}
