#define BLOCK 256
#define WORDS 55
#define EIGHT \
  const uint high = BYTE(66 + o / 4) >> 2 * (o % 4), signs = BYTE(74 + o); \
  const uint low = BYTE(2 + 2 * o) | (high & 1) << 8, next = BYTE(3 + 2 * o) | (high >> 1 & 1) << 8; \
  const float d = HALF(0) * float(1 + 2 * (BYTE(106 + o / 8) >> 4 * (o / 4 % 2) & 15)); \
  SPREAD(d, codes[low], codes[next], signs)
