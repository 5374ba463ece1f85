//! Protection-key contexts and windows for kernels: PKS, POE and a measurable mock, no dependencies.
