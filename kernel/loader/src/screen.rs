//! The screen, as the firmware leaves it: a frame buffer that the kernel is told of by a word on its command line.

use alloc::format;
use alloc::string::String;
use uefi::boot::{self, OpenProtocolAttributes, OpenProtocolParams};
use uefi::proto::console::gop::{GraphicsOutput, PixelFormat};

/// The word, if there is a frame buffer of 32-bit pixels.
pub fn word() -> Option<String> {
    let handle = boot::get_handle_for_protocol::<GraphicsOutput>().ok()?;
    let agent = boot::image_handle();
    let params = OpenProtocolParams { handle, agent, controller: None };
    // SAFETY: only looked at, and let go at once; to open it alone would take it from the firmware's own console.
    let mut output = unsafe {
        boot::open_protocol::<GraphicsOutput>(params, OpenProtocolAttributes::GetProtocol)
    }
    .ok()?;
    let mode = output.current_mode_info();
    if !matches!(mode.pixel_format(), PixelFormat::Rgb | PixelFormat::Bgr) {
        return None;
    }
    let ((width, height), stride) = (mode.resolution(), mode.stride());
    let address = output.frame_buffer().as_mut_ptr() as u64;
    Some(format!("screen={address:#x},{width},{height},{stride}"))
}
