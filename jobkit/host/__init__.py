"""What a component is hosted in: its adapters, its two servers, its process. Above rpc, runtime and adapters,
below the components."""
