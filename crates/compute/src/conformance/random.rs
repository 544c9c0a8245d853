//! Random numbers that a seed repeats: splitmix64 (Steele, Lea, Flood 2014).

/// A generator.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator that begins at `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }

    /// A number in `0..1`.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// A nearly normally distributed number: four uniform ones of 16 bits summed, which is bounded by 3.5.
    pub fn normal(&mut self) -> f32 {
        let bits = self.bits();
        let sum = (0..4).map(|i| f32::from((bits >> (16 * i)) as u16)).sum::<f32>();
        // Four numbers in 0..65536 have the mean 2 * 65535 and the variance 65536^2 / 3.
        (sum - 2.0 * 65535.0) / (65536.0 / 1.732_050_8)
    }

    /// `n` nearly normally distributed numbers.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    /// `n` random bytes.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(n.next_multiple_of(8));
        (0..n.div_ceil(8)).for_each(|_| bytes.extend_from_slice(&self.bits().to_le_bytes()));
        bytes.truncate(n);
        bytes
    }

    /// The numbers below `n` in random order.
    pub fn shuffled(&mut self, n: usize) -> Vec<u32> {
        let mut all: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            all.swap(i, self.below(i + 1));
        }
        all
    }
}
