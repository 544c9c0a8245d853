// A few rows times a transposed Q6_K matrix, in the blocks of the file (105 u16: ql 64, qh 32, scales 8, d). Group: 8 rows
// of the matrix, 4 waves of 2; a lane takes u16 lane and 32 + lane of a block's ql, four weights each: the low nibbles
// are weights at, at + 1 of 128, the high ones at + 64, at + 65.
//
//   x [M, n_in] f32    w [n_out, n_in / 256 * 105] u16    sizes [n_in, n_out]    y [M, n_out] f32
const uint n_in = sizes[0], n_out = sizes[1];
const uint row = (group_x * 4 + wave) * 2;
const uint at = 2 * lane;
float sum[2][M];
for (uint r = 0; r < 2; r++) {
  for (uint m = 0; m < M; m++) sum[r][m] = 0.0f;
}
for (uint block = 0; block < n_in / 256; block++) {
  float weight[2][8];
  for (uint r = 0; r < 2; r++) {
    const uint line = row + r < n_out ? row + r : n_out - 1;
    const uint from = (line * (n_in / 256) + block) * 105;
    const float d = half_bits(uint(w[from + 104]));
    for (uint side = 0; side < 2; side++) {
      const uint low = uint(w[from + 32 * side + lane]), high = uint(w[from + 64 + 16 * side + lane % 16]);
      for (uint i = 0; i < 4; i++) {
        // Weight i: byte i % 2, nibble i / 2, of quarter at / 32 + 2 (i / 2).
        const uint quarter = at / 32 + 2 * (i / 2), byte = 8 * (i % 2);
        const uint code = (low >> (byte + 4 * (i / 2)) & 15) | (high >> (byte + 2 * quarter) & 3) << 4;
        const uint place = 8 * side + 2 * quarter + at % 32 / 16;
        const uint scale = uint(w[from + 96 + place / 2]) >> (8 * (place % 2)) & 255;
        weight[r][4 * side + i] = d * float(int(scale) - (scale < 128 ? 0 : 256)) * float(int(code) - 32);
      }
    }
  }
  for (uint m = 0; m < M; m++) {
    for (uint side = 0; side < 2; side++) {
      for (uint i = 0; i < 4; i++) {
        const float input = x[m * n_in + block * 256 + 128 * side + at + 64 * (i / 2) + i % 2];
        sum[0][m] += weight[0][4 * side + i] * input;
        sum[1][m] += weight[1][4 * side + i] * input;
      }
    }
  }
}
for (uint r = 0; r < 2; r++) {
  for (uint m = 0; m < M; m++) {
    const float total = simd_sum(sum[r][m]);
    if (lane == 0 && row + r < n_out) y[m * n_out + row + r] = total;
  }
}
