// Blocks of a GGUF type as f16, for products with many rows and for look-ups. Group: 256 eights of weights, 8 waves. See
// `blocks_matmul`.
//
//   w [n_block, WORDS] u16    codes: the type's codebook, u32    sizes [eights]    y: pairs of weights [n_block, BLOCK / 2]
const uint octet = group_x * 256 + wave * 32 + lane;
if (octet < sizes[0]) {
  const uint o = octet % (BLOCK / 8), at = octet / (BLOCK / 8) * WORDS;
  float eight[8];
  EIGHT
  UNROLL
  for (uint i = 0; i < 4; i++) y[4 * octet + i] = half_pair(eight[2 * i], eight[2 * i + 1]);
}
