#include "engine/check_arguments.h"

#include <ATen/MemoryOverlap.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>

#include "engine/endpoint.h"
#include "ops/joined_shape.h"
#include "tape/tape.h"

namespace highgrad::engine {
namespace {

void check_tensor(const std::string& caller, const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(
      tensor.layout() == at::kStrided && !tensor.is_nested(),
      caller,
      ": expected ",
      name,
      " to be a dense (strided) tensor, got ",
      tensor.is_nested() ? "a nested tensor" : c10::str("layout ", tensor.layout()));
  TORCH_CHECK(
      !tensor.key_set().has(c10::DispatchKey::FuncTorchBatched),
      caller,
      ": expected ",
      name,
      " to have a recorded graph, got a tensor inside torch.vmap, which records none; call ",
      caller,
      " outside of vmap, or inside of torch.func.grad within it");
}

void check_output(const std::string& caller, const at::Tensor& output) {
  check_tensor(caller, "f", output);
  TORCH_CHECK(
      !output.is_complex(),
      caller,
      ": expected a real f, got ",
      output.scalar_type(),
      "; take torch.view_as_real(f), or its real and imaginary parts one by one");
  TORCH_CHECK(output.is_floating_point(), caller, ": expected f of a floating point dtype, got ", output.scalar_type());
}

void check_input(const std::string& caller, const at::Tensor& input) {
  check_tensor(caller, "wrt", input);
  TORCH_CHECK(
      input.is_floating_point() || input.is_complex(),
      caller,
      ": expected wrt of a floating point or complex dtype, got ",
      input.scalar_type());
  TORCH_CHECK(
      input.requires_grad(),
      caller,
      ": expected every wrt to require grad, got one of shape ",
      input.sizes(),
      " that does not. One of the differentiated Tensors does not require grad");
}

void check_pair(const std::string& caller, const at::Tensor& output, const at::Tensor& input) {
  TORCH_CHECK(
      output.is_meta() == input.is_meta(),
      caller,
      ": expected f and wrt both with or both without data, got f on ",
      output.device(),
      " and wrt on ",
      input.device());
  // The graph of a torch.func transform is another than that of the tensors that it captured: no path leads across.
  constexpr auto kTransformed = c10::DispatchKey::FuncTorchGradWrapper;
  TORCH_CHECK(
      !output.requires_grad() || output.key_set().has(kTransformed) == input.key_set().has(kTransformed),
      caller,
      ": expected f and wrt of the same torch.func transform, got one from inside and one from outside; "
      "make wrt an argument of the transformed function");
}

// Whether there is an earlier version that a graph may have recorded.
bool was_modified(const at::Tensor& tensor) {
  return !tensor.is_leaf() && !tensor.is_inference() && tensor._version() > 0;
}

} // namespace

void check_version(const std::string& caller, const torch::autograd::Edge& output, const at::Tensor& input) {
  TORCH_CHECK(
      !was_modified(input) ||
          !tape::reaches_earlier_version(output, endpoint_of(input).edge, static_cast<int64_t>(input._version())),
      caller,
      ": expected wrt as f was computed from it, got one of shape ",
      input.sizes(),
      " that has been modified by an inplace operation since (it is at version ",
      input._version(),
      "); keep a reference to its earlier value, or modify a clone");
}

void check_versions(
    const std::string& caller,
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs) {
  for (const at::Tensor& input : inputs) {
    if (!was_modified(input)) {
      continue;
    }
    for (const at::Tensor& output : outputs) {
      const torch::autograd::Edge edge = endpoint_of(output).edge;
      if (!tape::read_tape(edge, {endpoint_of(input).edge}).inputs[0].is_on_tape()) {
        check_version(caller, edge, input);
      }
    }
  }
}

void check_out(
    const std::string& caller,
    const std::vector<std::vector<int64_t>>& shapes,
    const std::vector<at::Tensor>& likes,
    const std::vector<at::Tensor>& out,
    const std::vector<at::Tensor>& others) {
  TORCH_CHECK_VALUE(
      out.size() == shapes.size(),
      caller,
      ": expected out to have the structure of the result, ",
      shapes.size(),
      " tensors, got ",
      out.size());
  std::vector<at::Tensor> taken = others;
  for (const auto k : c10::irange(out.size())) {
    const at::Tensor& result = out[k];
    const at::IntArrayRef shape = shapes[k];
    TORCH_CHECK_VALUE(result.sizes() == shape, caller, ": expected out of shape ", shape, ", got ", result.sizes());
    TORCH_CHECK_VALUE(
        result.scalar_type() == likes[k].scalar_type(),
        caller,
        ": expected out of wrt's dtype ",
        likes[k].scalar_type(),
        ", got ",
        result.scalar_type());
    TORCH_CHECK_VALUE(
        result.device() == likes[k].device() && result.layout() == at::kStrided,
        caller,
        ": expected a dense out on wrt's device ",
        likes[k].device(),
        ", got layout ",
        result.layout(),
        " on ",
        result.device());
    TORCH_CHECK_VALUE(!result.requires_grad(), caller, ": expected an out that does not require grad");
    TORCH_CHECK_VALUE(
        at::has_internal_overlap(result) != at::MemOverlap::Yes,
        caller,
        ": expected an out with memory of its own for every element, got an expanded tensor");
    for (const at::Tensor& other : taken) {
      TORCH_CHECK_VALUE(
          result.numel() == 0 || other.numel() == 0 || !result.is_alias_of(other),
          caller,
          ": expected an out with memory of its own, got one that shares it with f, wrt or another out");
    }
    taken.push_back(result);
  }
}

void check_arguments(
    const std::string& caller,
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    bool create_graph,
    std::optional<int64_t> chunk_size,
    const std::optional<std::vector<at::Tensor>>& out) {
  TORCH_CHECK_VALUE(
      !chunk_size.has_value() || *chunk_size >= 1,
      caller,
      ": expected chunk_size to be None or at least 1, got ",
      chunk_size.value_or(0));
  for (const at::Tensor& input : inputs) {
    check_input(caller, input);
  }
  for (const at::Tensor& output : outputs) {
    check_output(caller, output);
    for (const at::Tensor& input : inputs) {
      check_pair(caller, output, input);
    }
  }
  if (out.has_value()) {
    TORCH_CHECK_VALUE(!create_graph, caller, ": expected create_graph=False with out, got create_graph=True");
    std::vector<std::vector<int64_t>> shapes;
    std::vector<at::Tensor> likes;
    std::vector<at::Tensor> others = outputs;
    others.insert(others.end(), inputs.begin(), inputs.end());
    for (const at::Tensor& output : outputs) {
      for (const at::Tensor& input : inputs) {
        shapes.push_back(ops::joined_shape(output.sizes(), input.sizes()));
        likes.push_back(input);
      }
    }
    check_out(caller, shapes, likes, *out, others);
  }
}

} // namespace highgrad::engine
