// The K largest numbers of a slice of a row, largest first, each with its place. Group: (slice of 256 E numbers, row), 8 waves.
// Each lane knows the largest of its own E numbers; K times the largest of all is found and taken away.
//
//   x [n_row, n] f32, or with PAIRED 1 [n_row, n, 2] numbers and places     sizes [n, n_slice]
//   out [n_row, n_slice, K, 2] f32: numbers and places; -3e38 stands for none
const uint n = sizes[0], n_slice = sizes[1], rank = wave * 32 + lane;
SHARED(float, shared_tops, 16);
SHARED(float, shared_keys, 16);
float number[E], own = -3e38f;
uint mine = 0;
UNROLL
for (uint i = 0; i < E; i++) {
  const uint at = (group_x * E + i) * 256 + rank;
  const float found = at < n ? x[(group_y * n + at) * (1 + PAIRED)] : -3e38f;
  number[i] = found > -3e38f ? found : -3e38f;
  mine = number[i] > own ? i : mine;
  own = number[i] > own ? number[i] : own;
}
for (uint k = 0; k < K; k++) {
  // Two sides in turn: nobody overwrites what another wave still reads.
  const uint side = k % 2 * 8;
  const float wave_top = simd_max(own);
  if (lane == 0) shared_tops[side + wave] = wave_top;
  BARRIER();
  float top = shared_tops[side];
  for (uint w = 1; w < 8; w++) top = shared_tops[side + w] > top ? shared_tops[side + w] : top;
  // Of equal numbers the first; places within a slice are exact in f32.
  const float key = own == top ? -float(mine * 256 + rank) : -1e9f;
  const float wave_key = simd_max(key);
  if (lane == 0) shared_keys[side + wave] = wave_key;
  BARRIER();
  float first = shared_keys[side];
  for (uint w = 1; w < 8; w++) first = shared_keys[side + w] > first ? shared_keys[side + w] : first;
  if (key == first) {
    const uint at = (group_x * E + mine) * 256 + rank, to = ((group_y * n_slice + group_x) * K + k) * 2;
    out[to] = top;
    out[to + 1] = at >= n || top <= -3e38f ? 0.0f : PAIRED == 1 ? x[(group_y * n + at) * (1 + PAIRED) + PAIRED] : float(at);
    own = -3e38f;
    const uint taken = mine;
    mine = 0;
    UNROLL
    for (uint i = 0; i < E; i++) {
      if (i == taken) number[i] = -3e38f;
      mine = number[i] > own ? i : mine;
      own = number[i] > own ? number[i] : own;
    }
  }
}
