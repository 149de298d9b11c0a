//! Which GPUs there are, and opening one. Knows nothing of kernels.

use swiftlm_device::DeviceError;
use swiftlm_shader::IMMEDIATE_BYTES;
use wgpu::{Adapter, Backend, Backends, DeviceType, Features, Instance, InstanceDescriptor, InstanceFlags};

use crate::health::{Health, ready};

/// An adapter as listed for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterFacts {
    /// Its name; any part of it picks it.
    pub name: String,
    /// Discrete, integrated, virtual, CPU or other.
    pub kind: &'static str,
    /// Vulkan, Metal or DirectX 12.
    pub api: &'static str,
    /// Driver and version.
    pub driver: String,
    /// Why it cannot run the engine, if so.
    pub unusable: Option<String>,
}

/// Every adapter, best first.
pub fn adapters() -> Vec<AdapterFacts> {
    enumerate().iter().map(facts).collect()
}

/// An adapter with its logical device.
pub(crate) struct Opened {
    pub(crate) adapter: Adapter,
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) health: Health,
}

/// Opens the best adapter, or the best whose name contains `name`.
pub(crate) fn open(name: Option<&str>) -> Result<Opened, DeviceError> {
    let adapter = pick(enumerate(), name)?;
    let found = facts(&adapter);
    if adapter.get_info().device_type == DeviceType::Cpu {
        tracing::warn!(adapter = %found.name, "no GPU found: running on a software Vulkan driver; `--backend cpu` is faster");
    }
    let wanted = Features::IMMEDIATES | Features::SUBGROUP | Features::TIMESTAMP_QUERY;
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("swiftlm"),
        required_features: adapter.features() & wanted,
        required_limits: adapter.limits(),
        // Resident memory is a promise; blocks allocated ahead would break it.
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..wgpu::DeviceDescriptor::default()
    };
    let opened = ready(adapter.request_device(&descriptor));
    let (device, queue) =
        opened.map_err(|e| DeviceError::Unavailable(format!("cannot open adapter {}: {e}", found.name)))?;
    let health = Health::watch(&found.name, &device);
    tracing::info!(adapter = %found.name, api = found.api, driver = %found.driver, "device opened");
    Ok(Opened { adapter, device, queue, health })
}

/// Lanes of every subgroup where the adapter says so.
pub(crate) fn fixed_subgroup(adapter: &Adapter) -> Option<u32> {
    if !adapter.features().contains(Features::SUBGROUP) {
        return None;
    }
    let info = adapter.get_info();
    let (min, max) = (info.subgroup_min_size, info.subgroup_max_size);
    // Metal names no size; every Apple GPU has had 32, and the probe at start checks it.
    let apple = info.backend == Backend::Metal && info.name.starts_with("Apple");
    if apple { Some(32) } else { (min == max && min.is_power_of_two()).then_some(min) }
}

/// Bytes of the adapter's largest heap of its own memory, where the driver tells.
#[cfg(any(target_os = "linux", target_os = "windows"))]
#[allow(unsafe_code, reason = "wgpu does not pass on how much memory there is")]
pub(crate) fn memory(adapter: &Adapter) -> Option<u64> {
    /// `VK_MEMORY_HEAP_DEVICE_LOCAL_BIT`.
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the handle is only asked for a property and is not kept.
    let vulkan = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = vulkan.shared_instance().raw_instance();
    // SAFETY: the physical device belongs to this instance, which `adapter` keeps alive.
    let properties = unsafe { instance.get_physical_device_memory_properties(vulkan.raw_physical_device()) };
    let own = properties.memory_heaps.iter().take(properties.memory_heap_count as usize);
    own.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
}

/// Metal's working set limit is not passed on by wgpu.
#[cfg(not(any(target_os = "linux", target_os = "windows")))]
pub(crate) fn memory(_adapter: &Adapter) -> Option<u64> {
    None
}

fn enumerate() -> Vec<Adapter> {
    let descriptor = InstanceDescriptor {
        backends: Backends::VULKAN | Backends::METAL | Backends::DX12,
        flags: InstanceFlags::ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER,
        ..InstanceDescriptor::new_without_display_handle()
    };
    let mut found = ready(Instance::new(descriptor).enumerate_adapters(Backends::all()));
    found.sort_by_key(|a| match a.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    found
}

fn pick(adapters: Vec<Adapter>, name: Option<&str>) -> Result<Adapter, DeviceError> {
    let listed: Vec<AdapterFacts> = adapters.iter().map(facts).collect();
    let chosen = choose(&listed, name)?;
    adapters
        .into_iter()
        .nth(chosen)
        .ok_or_else(|| DeviceError::Unavailable("adapter vanished while opening".to_owned()))
}

/// Index of the first usable adapter whose name contains `name`, whatever the case.
fn choose(listed: &[AdapterFacts], name: Option<&str>) -> Result<usize, DeviceError> {
    if listed.is_empty() {
        return Err(DeviceError::Unavailable(
            "no GPU adapter found: install a Vulkan driver (on Debian or Ubuntu the software one is \
             `apt-get install mesa-vulkan-drivers`), or run with `--backend cpu`"
                .to_owned(),
        ));
    }
    let wanted = name.unwrap_or_default().to_lowercase();
    let matches = |a: &&AdapterFacts| a.name.to_lowercase().contains(&wanted);
    if let Some(at) = listed.iter().position(|a| matches(&a) && a.unusable.is_none()) {
        return Ok(at);
    }
    let describe = |a: &AdapterFacts| match &a.unusable {
        Some(why) => format!("{} ({why})", a.name),
        None => a.name.clone(),
    };
    let all = listed.iter().map(describe).collect::<Vec<_>>().join(", ");
    Err(DeviceError::Unavailable(match name {
        Some(name) => format!("no usable adapter named `{name}`; there are: {all}; or run with `--backend cpu`"),
        None => format!("no usable adapter: {all}; update the driver, or run with `--backend cpu`"),
    }))
}

fn facts(adapter: &Adapter) -> AdapterFacts {
    let info = adapter.get_info();
    let unusable = if !adapter.features().contains(Features::IMMEDIATES) {
        Some("lacks immediates".to_owned())
    } else if adapter.limits().max_immediate_size < IMMEDIATE_BYTES {
        Some(format!("{} bytes of immediates, {IMMEDIATE_BYTES} are needed", adapter.limits().max_immediate_size))
    } else {
        None
    };
    AdapterFacts {
        name: info.name,
        kind: match info.device_type {
            DeviceType::DiscreteGpu => "discrete",
            DeviceType::IntegratedGpu => "integrated",
            DeviceType::VirtualGpu => "virtual",
            DeviceType::Cpu => "CPU",
            DeviceType::Other => "other",
        },
        api: match info.backend {
            Backend::Vulkan => "Vulkan",
            Backend::Metal => "Metal",
            Backend::Dx12 => "DirectX 12",
            _ => "other",
        },
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        unusable,
    }
}

#[cfg(test)]
mod tests {
    use super::{AdapterFacts, choose};

    fn adapter(name: &str, unusable: Option<&str>) -> AdapterFacts {
        let unusable = unusable.map(str::to_owned);
        AdapterFacts { name: name.to_owned(), kind: "discrete", api: "Vulkan", driver: String::new(), unusable }
    }

    #[test]
    fn without_an_adapter_the_error_names_the_remedy() {
        let error = choose(&[], None).expect_err("nothing to choose").to_string();
        assert!(error.contains("apt-get install mesa-vulkan-drivers"), "{error}");
        assert!(error.contains("--backend cpu"), "{error}");
    }

    #[test]
    fn names_match_in_part_and_skip_the_unusable() {
        let listed = [adapter("Old GPU", Some("lacks immediates")), adapter("New GPU", None)];
        assert_eq!(choose(&listed, None), Ok(1));
        assert_eq!(choose(&listed, Some("new")), Ok(1));
        let error = choose(&listed, Some("old")).expect_err("unusable").to_string();
        assert_eq!(
            error,
            "no usable adapter named `old`; there are: Old GPU (lacks immediates), New GPU; or run with `--backend cpu`"
        );
    }
}
