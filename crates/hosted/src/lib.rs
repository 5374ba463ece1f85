//! A machine inside a Linux process: arena, mock register, MMU model.
