// libtorch alone, for the benchmark: `torch MODEL image|sound THREADS` loads a model as libtorch's
// users do, and for each line on its input computes once and prints how many nanoseconds that took.
#include <ATen/Parallel.h>
#include <torch/script.h>

#include <chrono>
#include <iostream>
#include <string>

int main(int count, char **arguments) {
  if (count != 4) return 2;
  torch::InferenceMode inference;
  at::set_num_threads(std::stoi(arguments[3]));
  auto module = torch::jit::load(arguments[1]);
  module.eval();
  std::vector<torch::jit::IValue> inputs;
  if (std::string(arguments[2]) == "image") {
    inputs.push_back(torch::rand({1, 3, 224, 224}));
  } else {
    inputs.push_back(torch::zeros({1, 512}));
    inputs.push_back(16000);
  }
  for (std::string line; std::getline(std::cin, line);) {
    auto begun = std::chrono::steady_clock::now();
    module.forward(inputs);
    auto took = std::chrono::steady_clock::now() - begun;
    std::cout << std::chrono::duration_cast<std::chrono::nanoseconds>(took).count() << std::endl;
  }
}
