//! Products with weight matrices at the level of an operation: which matrices share an input, what is done on the way
//! out.

use super::elementwise::Activate;
use super::matmul::{Activations, Columns, Epilogue, Out, PackedMatrix, Place, Product, Weights, matmul};
use super::tensor::{Memory, Tensor};
use super::vector::Kernels;
use super::{Cpu, Pool};
use crate::Error;
use crate::op::{Act, Linear};

/// What every product needs.
pub(super) struct Context<'a> {
    pub kernels: Kernels,
    pub pool: &'a Pool,
    pub memory: &'a Memory,
    pub activations: &'a mut Activations,
}

/// All rows of a linear's matrix.
fn weights(linear: &Linear<Cpu>) -> Weights<'_> {
    assert_eq!(linear.matrix.n_expert(), 1, "linear: a matrix of experts needs `moe` or `head_linear`");
    Weights { scale: linear.scale, bias: linear.bias.as_ref().map(|b| &*b.data), ..Weights::all(&linear.matrix) }
}

fn product<'a>(weights: Weights<'a>, epilogue: Epilogue<'a>, out: usize) -> Product<'a> {
    Product { weights, group: 0, epilogue, place: Place { out, row: 0, col: 0 } }
}

impl Context<'_> {
    fn load(&mut self, x: &Tensor, matrices: &[&PackedMatrix]) -> Result<(), Error> {
        self.activations.load(self.pool, &x.data, x.shape[1], Columns::Rows, matrices)
    }

    /// `linears` of the same rows.
    pub(super) fn linears<const N: usize>(
        &mut self,
        x: &Tensor,
        linears: [&Linear<Cpu>; N],
    ) -> Result<[Tensor; N], Error> {
        let mut tensors = linears.map(|l| self.memory.tensor([x.shape[0], l.matrix.n_out()]));
        if x.shape[0] == 0 {
            return Ok(tensors);
        }
        self.load(x, &linears.map(|l| &l.matrix))?;
        let mut out = 0;
        let products = linears.map(|l| {
            out += 1;
            product(weights(l), Epilogue::Store, out - 1)
        });
        let mut outs = tensors.each_mut().map(|t| Out { stride: t.shape[1], data: &mut t.data });
        matmul(self.pool, self.activations, &products, &mut outs)?;
        Ok(tensors)
    }

    /// `residual + factor * linear(x)`.
    pub(super) fn linear_add(
        &mut self,
        x: &Tensor,
        linear: &Linear<Cpu>,
        factor: f32,
        mut residual: Tensor,
    ) -> Result<Tensor, Error> {
        let shape = [x.shape[0], linear.matrix.n_out()];
        assert_eq!(shape, residual.shape, "linear_add: the product and the residual differ in shape");
        if x.shape[0] == 0 {
            return Ok(residual);
        }
        self.load(x, &[&linear.matrix])?;
        let mut outs = [Out { stride: shape[1], data: &mut residual.data }];
        matmul(self.pool, self.activations, &[product(weights(linear), Epilogue::Add(factor), 0)], &mut outs)?;
        Ok(residual)
    }

    /// `act(gate(x)) * up(x)`.
    pub(super) fn gate_up(
        &mut self,
        x: &Tensor,
        gate: &Linear<Cpu>,
        up: &Linear<Cpu>,
        act: Act,
    ) -> Result<Tensor, Error> {
        let (gate_weights, up_weights, kernels) = (weights(gate), weights(up), self.kernels);
        assert_eq!(gate_weights.rows, up_weights.rows, "gate_up: gate and up differ in rows");
        if x.shape[0] == 0 || !gate_weights.pairs_with(&up_weights) {
            let [mut gate, up] = self.linears(x, [gate, up])?;
            kernels.run(Activate { x: &mut gate.data, up: Some(&up.data), act });
            return Ok(gate);
        }
        self.load(x, &[&gate.matrix, &up.matrix])?;
        let combine = |y: &mut [f32], u: &[f32]| kernels.run(Activate { x: y, up: Some(u), act });
        let mut out = self.memory.tensor([x.shape[0], gate.matrix.n_out()]);
        let mut outs = [Out { stride: out.shape[1], data: &mut out.data }];
        let epilogue = Epilogue::Gate { up: &up_weights, combine: &combine };
        matmul(self.pool, self.activations, &[product(gate_weights.clone(), epilogue, 0)], &mut outs)?;
        Ok(out)
    }

    /// One matrix a head. `starts` and `groups` are memory for the columns' places.
    pub(super) fn head_linear(&mut self, x: &Tensor, w: &PackedMatrix, lists: &mut Lists) -> Result<Tensor, Error> {
        let ([n_tok, n_col], n_head, d_in, d_out) = (x.shape, w.n_expert(), w.n_in(), w.n_out());
        assert_eq!(n_col, n_head * d_in, "head_linear: rows of {n_col}, {n_head} heads of {d_in}");
        let mut out = self.memory.tensor([n_tok, n_head * d_out]);
        if n_tok == 0 {
            return Ok(out);
        }
        lists.starts.clear();
        lists.groups.clear();
        lists.starts.extend((0..n_head * n_tok).map(|i| i % n_tok * n_col + i / n_tok * d_in));
        lists.groups.extend((0..=n_head).map(|h| h * n_tok));
        let columns = Columns::Starts { starts: &lists.starts, groups: &lists.groups };
        self.activations.load(self.pool, &x.data, d_in, columns, &[w])?;
        let (mut products, weights) = lists.take();
        products.extend((0..n_head).map(|head| Product {
            weights: Weights { expert: head, ..Weights::all(w) },
            group: head,
            epilogue: Epilogue::Store,
            place: Place { out: 0, row: 0, col: head * d_out },
        }));
        let result =
            matmul(self.pool, self.activations, &products, &mut [Out { stride: n_head * d_out, data: &mut out.data }]);
        lists.give_products(products);
        lists.give_weights(weights);
        result.map(|()| out)
    }
}

/// Lists that keep their memory between calls.
#[derive(Default)]
pub(super) struct Lists {
    pub starts: Vec<usize>,
    pub groups: Vec<usize>,
    products: Vec<Product<'static>>,
    weights: Vec<Weights<'static>>,
}

impl Lists {
    /// Empty lists of products and of weights, for as long as one call needs them.
    pub(super) fn take<'a, 'b>(&mut self) -> (Vec<Product<'a>>, Vec<Weights<'b>>) {
        (recycle(std::mem::take(&mut self.products)), recycle(std::mem::take(&mut self.weights)))
    }

    /// Takes a list back.
    pub(super) fn give_products(&mut self, products: Vec<Product<'_>>) {
        self.products = recycle(products);
    }

    /// Takes a list back.
    pub(super) fn give_weights(&mut self, weights: Vec<Weights<'_>>) {
        self.weights = recycle(weights);
    }
}

/// The list, emptied, as one whose items differ in lifetimes. Collecting in place keeps the memory.
fn recycle<A, B>(mut list: Vec<A>) -> Vec<B> {
    list.clear();
    list.into_iter().map(|_| unreachable!("the list is empty")).collect()
}
