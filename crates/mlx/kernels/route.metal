// The experts that rows use, best first, and their weights. Group: a row, 1 wave, of whose lanes each has every 32nd expert.
//
//   logits [n_tok, n_expert] f32    bias [n_expert] f32 (BIAS)    factors [scale, span of GATING 3]
//   sizes [n_expert, n_used, n_group, n_group_used], n_expert <= 32 E, the others <= 32
//   experts, weights [n_tok, n_used]; GATING 0: softmax of all experts' logits, 1: sigmoid, 2: softmax of the chosen, 3: each one's
//   share of a softmax over those left that are near, see `Gating` of `mlxr_compute::op`; NORMALIZE: divided by their sum
//   GROUPED: only of the groups whose two best sum highest
const uint n_expert = sizes[0], n_used = sizes[1], first = group_x * n_expert;
SHARED(float, shared_merits, 32 * E);
float number[E], merit[E], largest = -3e38f;
UNROLL
for (uint i = 0; i < E; i++) {
  number[i] = 32 * i + lane < n_expert ? logits[first + 32 * i + lane] : -3e38f;
  largest = number[i] > largest ? number[i] : largest;
}
if (GATING == 0) {
  largest = simd_max(largest);
  float total = 0.0f;
  UNROLL
  for (uint i = 0; i < E; i++) {
    number[i] = 32 * i + lane < n_expert ? exp(number[i] - largest) : 0.0f;
    total += number[i];
  }
  total = simd_sum(total);
  UNROLL
  for (uint i = 0; i < E; i++) number[i] /= total;
}
if (GATING == 1) {
  UNROLL
  for (uint i = 0; i < E; i++) number[i] = 1.0f / (1.0f + exp(-number[i]));
}
// Experts that there are not come last, after those that groups exclude; what is no number is as small as any.
UNROLL
for (uint i = 0; i < E; i++) {
  const uint expert = 32 * i + lane;
  const float found = expert < n_expert ? number[i] + (BIAS == 1 ? bias[expert] : 0.0f) : 0.0f;
  merit[i] = expert >= n_expert ? -3.3e38f : found > -3e38f ? found : -3e38f;
}
if (GROUPED == 1) {
  const uint n_group = sizes[2], n = n_expert / n_group;
  UNROLL
  for (uint i = 0; i < E; i++) shared_merits[32 * i + lane] = merit[i];
  BARRIER();
  float best = -3.3e38f, second = -3.3e38f;
  for (uint i = 0; lane < n_group && i < n; i++) {
    const float other = shared_merits[lane * n + i];
    second = other > best ? best : other > second ? other : second;
    best = other > best ? other : best;
  }
  const float sum = n > 1 ? best + second : best;
  uint rank = 0;
  for (uint i = 0; i < n_group; i++) {
    const float other = simd_shuffle(sum, i);
    rank += other > sum || (other == sum && i < lane) ? 1 : 0;
  }
  const float kept = rank < sizes[3] ? 1.0f : 0.0f;
  UNROLL
  for (uint i = 0; i < E; i++) {
    const uint expert = 32 * i + lane < n_expert ? 32 * i + lane : 0;
    if (simd_shuffle(kept, expert / n) == 0.0f && 32 * i + lane < n_expert) merit[i] = -3.2e38f;
  }
}
// Lane k is told the best but k, and its weight.
float weight = 0.0f;
uint chosen = 0;
for (uint k = 0; k < n_used; k++) {
  float own = -3.4e38f, value = 0.0f;
  uint mine = 0;
  UNROLL
  for (uint i = 0; i < E; i++) {
    mine = merit[i] > own ? i : mine;
    value = merit[i] > own ? number[i] : value;
    own = merit[i] > own ? merit[i] : own;
  }
  // Of equal ones the first; places are exact in f32.
  const float top = simd_max(own);
  const uint place = uint(-simd_max(own == top ? -float(32 * mine + lane) : -1e6f));
  float found = simd_shuffle(value, place % 32);
  if (GATING == 3) {
    const float logit = found;
    float mass = 0.0f;
    UNROLL
    for (uint i = 0; i < E; i++) {
      const float behind = logit - number[i], size = number[i] < 0.0f ? -number[i] : number[i];
      if (merit[i] > -3.1e38f && behind / (size > logit ? size : logit) <= factors[1]) mass += exp(-behind);
    }
    found = 1.0f / simd_sum(mass);
  }
  weight = lane == k ? found : weight;
  chosen = lane == k ? place : chosen;
  UNROLL
  for (uint i = 0; i < E; i++) merit[i] = 32 * i + lane == place ? -3.4e38f : merit[i];
}
if (GATING == 2) {
  const float behind = weight - simd_shuffle(weight, 0);
  weight = lane < n_used ? exp(behind) : 0.0f;
  weight /= simd_sum(weight);
}
if (NORMALIZE == 1) {
  const float sum = simd_sum(lane < n_used ? weight : 0.0f);
  weight /= sum > 1.17549435e-38f ? sum : 1.17549435e-38f;
}
if (lane < n_used) {
  experts[group_x * n_used + lane] = chosen;
  weights[group_x * n_used + lane] = weight * factors[0];
}
