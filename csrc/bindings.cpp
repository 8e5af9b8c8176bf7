// The Python module: names, defaults and conversions.

#include <pybind11/functional.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/Layout.h>
#include <torch/csrc/utils/pybind.h>

#include "callers_modes.h"
#include "engine/batched_vjp.h"
#include "engine/check_arguments.h"
#include "engine/execute.h"
#include "pattern_bindings.h"
#include "sweep_bindings.h"
#include "tape/node_rules.h"
#include "taylor_bindings.h"
#include "vjp_bindings.h"

namespace py = pybind11;
namespace engine = highgrad::engine;

namespace {

using Plan = highgrad::plan::OutputPlan;

// Not every torch that is supported can convert a torch.layout by itself.
at::Layout layout_of(const py::object& layout) {
  TORCH_CHECK_TYPE(
      THPLayout_Check(layout.ptr()), "expected layout to be a torch.layout, got ", py::str(layout).cast<std::string>());
  return reinterpret_cast<const THPLayout*>(layout.ptr())->layout;
}

engine::JacobianOptions make_options(
    std::string caller,
    bool create_graph,
    bool retain_graph,
    bool allow_unused,
    bool strict,
    std::optional<int64_t> chunk_size,
    const std::string& mode,
    const std::string& structure,
    at::Layout layout,
    int64_t batch_dims) {
  const auto parsed_mode = highgrad::plan::parse_mode(caller, mode);
  TORCH_CHECK_VALUE(
      structure == "auto" || structure == "dense",
      caller,
      ": expected structure to be \"auto\" or \"dense\", got \"",
      structure,
      "\"");
  return {
      std::move(caller),
      create_graph,
      retain_graph,
      allow_unused,
      strict,
      chunk_size,
      parsed_mode,
      structure == "auto",
      {},
      layout,
      batch_dims,
      {},
      {}};
}

// Entries of a result that any device holds.
constexpr int64_t kSmallResult = int64_t{1} << 26;

// Python knows the memory of devices; it is asked for large results alone.
void check_fits(
    const std::string& caller,
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs) {
  int64_t rows = 0, columns = 0;
  for (const at::Tensor& output : outputs) {
    rows += output.numel();
  }
  for (const at::Tensor& input : inputs) {
    columns += input.numel();
  }
  if (static_cast<double>(rows) * static_cast<double>(columns) > kSmallResult) {
    py::module_::import("highgrad_ext._options")
        .attr("check_fits")(
            caller,
            py::int_(rows) * py::int_(columns),
            inputs[0],
            "layout=torch.sparse_csr, batch_dims or a part of f may be enough");
  }
}

std::vector<at::Tensor> full_jacobian(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    std::string caller,
    bool create_graph,
    bool retain_graph,
    bool allow_unused,
    bool strict,
    std::optional<int64_t> chunk_size,
    const std::string& mode,
    const std::string& structure,
    const py::object& layout,
    int64_t batch_dims,
    const std::vector<std::shared_ptr<Plan>>& plans,
    const std::optional<std::vector<at::Tensor>>& out,
    const py::object& progress) {
  engine::JacobianOptions options;
  HANDLE_TH_ERRORS
  options = make_options(
      std::move(caller),
      create_graph,
      retain_graph,
      allow_unused,
      strict,
      chunk_size,
      mode,
      structure,
      layout_of(layout),
      batch_dims);
  if (options.layout == at::kStrided && batch_dims == 0) {
    check_fits(options.caller, outputs, inputs);
  }
  END_HANDLE_TH_ERRORS_PYBIND
  options.plans = {plans.begin(), plans.end()};
  return highgrad::call_sweeps(std::move(options), progress, [&](const engine::JacobianOptions& complete) {
    return engine::full_jacobian(outputs, inputs, complete, out);
  });
}

std::vector<std::shared_ptr<Plan>> plan_jacobian(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& inputs,
    std::string caller,
    std::optional<int64_t> chunk_size,
    const std::string& mode,
    const std::string& structure,
    const py::object& layout,
    int64_t batch_dims) {
  std::vector<std::shared_ptr<Plan>> plans;
  HANDLE_TH_ERRORS
  const engine::JacobianOptions options = make_options(
      std::move(caller), false, true, true, false, chunk_size, mode, structure, layout_of(layout), batch_dims);
  const py::gil_scoped_release no_gil;
  for (const auto& plan : engine::plan_jacobian(outputs, inputs, options)) {
    plans.push_back(std::make_shared<Plan>(*plan));
  }
  END_HANDLE_TH_ERRORS_PYBIND
  return plans;
}

std::vector<std::optional<at::Tensor>> batched_vjp(
    const std::vector<at::Tensor>& outputs,
    const std::vector<at::Tensor>& cotangents,
    const std::vector<at::Tensor>& inputs,
    bool create_graph) {
  std::vector<std::optional<at::Tensor>> rows;
  HANDLE_TH_ERRORS
  const py::gil_scoped_release no_gil;
  torch::autograd::edge_list output_edges, input_edges;
  for (const at::Tensor& output : outputs) {
    output_edges.push_back(torch::autograd::impl::gradient_edge(output));
  }
  for (const at::Tensor& input : inputs) {
    input_edges.push_back(torch::autograd::impl::gradient_edge(input));
  }
  for (at::Tensor& row :
       engine::batched_vjp(output_edges, cotangents, input_edges, {/*keep_graph=*/true, create_graph})) {
    rows.push_back(row.defined() ? std::optional<at::Tensor>(std::move(row)) : std::nullopt);
  }
  END_HANDLE_TH_ERRORS_PYBIND
  return rows;
}

} // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
#ifdef HIGHGRAD_CUDA
  m.attr("cuda_built") = true;
#else
  m.attr("cuda_built") = false;
#endif
  m.attr("SMALL_RESULT") = kSmallResult;
  py::class_<highgrad::WithoutModes>(m, "WithoutModes")
      .def(py::init<>())
      .def("__enter__", &highgrad::WithoutModes::enter)
      .def("__exit__", [](highgrad::WithoutModes& modes, const py::args& /*error*/) { modes.exit(); });
  highgrad::bind_structures(m);
  highgrad::bind_plans(m);
  m.def(
      "full_jacobian",
      &full_jacobian,
      py::call_guard<highgrad::CallersModes>(),
      py::arg("outputs"),
      py::arg("inputs"),
      py::arg("caller"),
      py::arg("create_graph"),
      py::arg("retain_graph"),
      py::arg("allow_unused"),
      py::arg("strict"),
      py::arg("chunk_size"),
      py::arg("mode"),
      py::arg("structure"),
      py::arg("layout"),
      py::arg("batch_dims"),
      py::arg("plans"),
      py::arg("out"),
      py::arg("progress"));
  m.def(
      "plan_jacobian",
      &plan_jacobian,
      py::call_guard<highgrad::CallersModes>(),
      py::arg("outputs"),
      py::arg("inputs"),
      py::arg("caller"),
      py::arg("chunk_size"),
      py::arg("mode"),
      py::arg("structure"),
      py::arg("layout"),
      py::arg("batch_dims"));
  m.def(
      "batched_vjp",
      &batched_vjp,
      py::arg("outputs"),
      py::arg("cotangents"),
      py::arg("inputs"),
      py::arg("create_graph"));
  m.def(
      "check_out",
      torch::wrap_pybind_function(&engine::check_out),
      py::arg("caller"),
      py::arg("shapes"),
      py::arg("likes"),
      py::arg("out"),
      py::arg("others"));
  m.def(
      "release_graph",
      torch::wrap_pybind_function_no_gil(&engine::release_graph),
      py::call_guard<highgrad::CallersModes>(),
      py::arg("outputs"),
      py::arg("inputs"));
  highgrad::bind_taylor(m);
  m.def("distrusted_nodes", &highgrad::tape::distrusted_nodes);
  highgrad::bind_patterns(m);
  highgrad::bind_vjps(m);
}
