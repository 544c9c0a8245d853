// A few rows times a transposed affine matrix: every weight is read once for all M rows. Group: 16 rows of the matrix, 4
// waves of 4; a lane takes 8 weights (8 BITS bits, of one scale and bias) of each 256, so that neighbours read neighbours.
//
//   x [M, n_in] f32    w [n_out, n_in * BITS / 32] u32    scales, biases [n_out, n_in / GROUP]
//   sizes [n_in, n_out]                                   y [M, n_out] f32
const uint n_in = sizes[0], n_out = sizes[1];
const uint row = (group_x * 4 + wave) * 4;
float sum[4][M];
for (uint r = 0; r < 4; r++) {
  for (uint m = 0; m < M; m++) sum[r][m] = 0.0f;
}
for (uint octet = lane; octet < n_in / 8; octet += 32) {
  float weight[4][8];
  for (uint r = 0; r < 4; r++) {
    const uint line = row + r < n_out ? row + r : n_out - 1;
    const uint bit = octet * (8 * BITS), at = line * (n_in / 32 * BITS) + bit / 32, shift = bit % 32;
    // The octet's bits, moved down to bit 0 of `low`, and beyond 32 of them to `high`.
    uint low = w[at] >> shift, high = 0;
    if (shift + 8 * BITS > 32) {
      const uint next = w[at + 1];
      low |= shift > 0 ? next << (32 - shift) : 0;
      high = next >> shift;
    }
    const uint group = line * (n_in / GROUP) + octet * 8 / GROUP;
    const float scale = float(scales[group]), bias = float(biases[group]);
    for (uint i = 0; i < 8; i++) {
      uint code = i * BITS < 32 ? low >> (i * BITS % 32) : high >> (i * BITS % 32);
      if (i * BITS < 32 && i * BITS + BITS > 32) code |= high << (32 - i * BITS % 32);
      weight[r][i] = scale * float(code & ((1u << BITS) - 1)) + bias;
    }
  }
  for (uint m = 0; m < M; m++) {
    float input[8];
    for (uint i = 0; i < 8; i++) input[i] = x[m * n_in + octet * 8 + i];
    for (uint r = 0; r < 4; r++) {
      for (uint i = 0; i < 8; i++) sum[r][m] += weight[r][i] * input[i];
    }
  }
}
for (uint r = 0; r < 4; r++) {
  for (uint m = 0; m < M; m++) {
    const float total = simd_sum(sum[r][m]);
    if (lane == 0 && row + r < n_out) y[m * n_out + row + r] = total;
  }
}
