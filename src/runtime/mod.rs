//! Running a task: engine, modules, sandbox.
