// Q6_K blocks as f32, for products with many rows. Group: a block, 1 wave. Layout in `q6_k_matmul`.
//
//   w [n_block, 210] bytes    y [n_block, 256] f32
const uint at = group_x * 210;
const float d = half_bits(uint(w[at + 208]) | uint(w[at + 209]) << 8);
for (uint part = 0; part < 8; part++) {
  const uint side = part / 4, quarter = part % 4;
  const uint low = uint(w[at + 64 * side + 32 * (quarter % 2) + lane]) >> (4 * (quarter / 2)) & 15;
  const uint high = uint(w[at + 128 + 32 * side + lane]) >> (2 * quarter) & 3;
  const uint byte = w[at + 192 + 8 * side + 2 * quarter + lane / 16];
  const float scale = d * float(int(byte) - (byte < 128 ? 0 : 256));
  y[group_x * 256 + 32 * part + lane] = scale * float(int(low | high << 4) - 32);
}
