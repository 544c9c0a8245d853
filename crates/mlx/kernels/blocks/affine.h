// MLX's integers of BITS bits below 8, of which LOW are in one plane and HIGH in another, where they lie so that a shift serves several.
#define LOW (BITS < 4 ? 2u : 4u)
#define HIGH (BITS - LOW)
#define MORE (HIGH > 0 ? HIGH : 1)
#define QUADS (BITS < 4 ? 1u : BITS < 6 ? 2u : 3u)
#define WORDS (BITS == 3 || BITS == 5 ? 2u : 0u)
#define AFFINE 2
#define EIGHT(own, half_block, step) \
  const uint octet = 4 * half_block + step, turn = octet % (4 / MORE); \
  UNROLL \
  for (uint i = 0; i < 4; i++) { \
    const uint to = LOW * i % 8, from = LOW * i + HIGH * (turn % (LOW / MORE)) + 4 * LOW * (turn / (LOW / MORE)); \
    const uint high = masked(TO(own[2 * LOW + octet * HIGH / 4], from, to + LOW), (((1u << HIGH) - 1) << (to + LOW)) * 0x10001u, MAGIC); \
    const uint low = TO(own[octet * LOW / 4], LOW * i + 4 * LOW * (octet % (4 / LOW)), to); \
    pair[i] = SCALED(own, half_block, UNDER(to, masked(low, (((1u << LOW) - 1) << to) * 0x10001u, high))); \
  }
