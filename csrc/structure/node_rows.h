#pragma once

#include <ATen/TensorGeometry.h>
#include <ATen/core/ivalue.h>
#include <c10/core/SymInt.h>
#include <c10/util/ArrayRef.h>
#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "structure/node_table.h"

namespace highgrad::structure {

// Collects integers that Nodes have saved, of whatever kind.
struct Reader {
  NodeAttributes attributes;
  bool is_known = true;

  // A number that tells two Nodes apart, or 0 and nothing known.
  int64_t number(const c10::SymInt& value) {
    const auto known = value.maybe_as_int();
    is_known &= known.has_value();
    return known.value_or(0);
  }

  void append(std::vector<int64_t>& to, int64_t value) {
    to.push_back(value);
  }
  void append(std::vector<int64_t>& to, const c10::SymInt& value) {
    to.push_back(number(value));
  }
  void append(std::vector<int64_t>& to, const at::TensorGeometry& geometry) {
    to.push_back(geometry.dim());
    append(to, geometry.sym_sizes().vec());
    append(to, geometry.sym_strides().vec());
    append(to, geometry.sym_storage_offset());
  }
  template <typename T>
  void append(std::vector<int64_t>& to, const std::optional<T>& value) {
    to.push_back(value.has_value());
    if (value.has_value()) {
      append(to, *value);
    }
  }
  template <typename T>
  void append(std::vector<int64_t>& to, const std::vector<T>& values) {
    for (const T& value : values) {
      append(to, value);
    }
  }
  template <typename T>
  void append(std::vector<int64_t>& to, const c10::OptionalArray<T>& values) {
    if (values.list.has_value()) {
      append(to, *values.list);
    }
  }
};

// What the table knows of one type of Node.
struct Row {
  std::string_view name;
  NodeFacts facts;
  // Reads what a Node has saved; null where there is nothing to tell.
  void (*read)(torch::autograd::Node&, Reader&) = nullptr;
  // Whether `facts` hold of this Node; if not, only that it hands NaN on.
  bool (*applies)(torch::autograd::Node&) = nullptr;
};

c10::ArrayRef<Row> node_rows();

} // namespace highgrad::structure
