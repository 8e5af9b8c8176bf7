// The schemas of all ops; the kernels register themselves in ops/<dispatch key>/.

#include <torch/library.h>

TORCH_LIBRARY(highgrad_ext, m) {
  m.def("seed_basis(Tensor like, SymInt rows, SymInt first_row) -> Tensor");
  m.def("assemble_rows(Tensor?[] blocks, SymInt[] row_counts, SymInt[] output_shape, Tensor like) -> Tensor");
  m.def("expand_symmetric(Tensor packed, int size, int order) -> Tensor");
  m.def("fold_symmetric(Tensor full, int size, int order) -> Tensor");
  m.def("assemble_rows_(Tensor(a!) rows, Tensor? block) -> ()");
  m.def("decompress(Tensor compressed, Tensor source, Tensor? target, SymInt[] shape) -> Tensor");
  m.def(
      "compose_jet(Tensor x, Tensor[] seeds, int kind, float[] constants, int terms, int[] counts, bool collapsed, "
      "Tensor? weights) -> Tensor");
  m.def(
      "compose_jet_backward(Tensor by_rows, Tensor x, Tensor[] seeds, int kind, float[] constants, int terms, "
      "int[] counts, bool collapsed, Tensor? weights) -> (Tensor, Tensor)");
  m.def("compress(Tensor values, Tensor source, Tensor? target, SymInt[] shape) -> Tensor");
}
