// A few rows times a transposed matrix in the blocks of a GGUF type, as the file has them. What differs between types is in
// `blocks/*.h`: BLOCK weights, WORDS of 16 bits, and EIGHT, which puts weights 8 o .. 8 o + 7 of the block that begins at word
// `at` into `eight`. Group: 8 rows of the matrix, 4 waves of 2; a lane takes eight weights of each 256.
//
//   x_half, x_scales: of `rows_half`, LAYOUT 0       w [n_out, n_in / BLOCK * WORDS] u16    codes: the type's codebook, u32
//   residual [n_tok, n_out] f32 (ADD)                sizes [n_in, n_tok, n_out]              y [n_tok, n_out] f32, n_tok <= M
const uint n_in = sizes[0], n_tok = sizes[1], n_out = sizes[2];
const uint row = (group_x * 4 + wave) * 2;
float sum[2][M];
UNROLL
for (uint m = 0; m < M; m++) sum[0][m] = sum[1][m] = 0.0f;
for (uint octet = lane; octet < n_in / 8; octet += 32) {
  const uint o = octet % (BLOCK / 8);
  float weight[2][8];
  UNROLL
  for (uint r = 0; r < 2; r++) {
    const uint line = row + r < n_out ? row + r : n_out - 1;
    const uint at = (line * (n_in / BLOCK) + octet / (BLOCK / 8)) * WORDS;
    float eight[8];
    EIGHT
    UNROLL
    for (uint i = 0; i < 8; i++) weight[r][i] = eight[i];
  }
  UNROLL
  for (uint m = 0; m < M; m++) {
    const uint token = m < n_tok ? m : n_tok - 1;
    const uint4 four = LOAD4(x_half, token * (n_in / 8) + octet);
    const uint pair[4] = {four.x, four.y, four.z, four.w};
    UNROLL
    for (uint i = 0; i < 4; i++) {
      const float low = pair_low(pair[i]), high = pair_high(pair[i]);
      UNROLL
      for (uint r = 0; r < 2; r++) sum[r][m] += weight[r][2 * i] * low + weight[r][2 * i + 1] * high;
    }
  }
}
UNROLL
for (uint r = 0; r < 2; r++) {
  UNROLL
  for (uint m = 0; m < M; m++) {
    const float total = simd_sum(sum[r][m]);
    if (lane == 0 && m < n_tok && row + r < n_out) {
      const uint to = m * n_out + row + r;
      y[to] = total * x_scales[m] + (ADD == 1 ? residual[to] : 0.0f);
    }
  }
}
