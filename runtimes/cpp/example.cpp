// Answers, learns from one batch, and keeps what it learnt.

#include <iostream>
#include <pockui/trainer.hpp>

int main(int count, char** arguments) {
  if (count != 3) return 1;
  try {
    auto trainer = pockui::Trainer::load(arguments[1]);
    const auto images = pockui::Array::of<float>({4, 1, 8, 8}, std::vector<float>(256, 0.5F));
    const auto labels = pockui::Array::of<std::int64_t>({4}, {0, 1, 2, 3});
    const auto answer = trainer.predict({{"x", images}}).at("prediction");
    std::cout << "probabilities of " << answer.shape()[1] << " classes\n";
    std::cout << "loss " << trainer.step({{"x", images}, {"y", labels}}).loss << "\n";
    trainer.save(arguments[2]);
  } catch (const pockui::Error& e) {
    std::cerr << e.what() << "\n";
    return 2;
  }
}
