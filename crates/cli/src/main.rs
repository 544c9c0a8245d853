//! `mlx-run`: run, serve and inspect local language models.

fn main() {}
