output "address" {
  description = "The hub's public address, for the spokes."
  value       = aws_eip.this.public_ip
}

output "interface" {
  description = "Its interface: the target of further routes to the privnet."
  value       = aws_network_interface.this.id
}

output "role_arn" {
  description = "Its role, for the module `discovery` in other accounts."
  value       = aws_iam_role.this.arn
}

output "group" {
  description = "Its Auto Scaling group."
  value       = aws_autoscaling_group.this.name
}

output "security_group_id" {
  description = "Its security group, for what else shall reach it (further peers by IPsec)."
  value       = aws_security_group.this.id
}

output "key_parameter" {
  description = "The SSM parameter with its private key, of which `wg pubkey` makes the public one."
  value       = var.hub_key_parameter
}

output "second" {
  description = "The second hub's address, interface, group and key parameter; without one null."
  value = var.hubs < 2 ? null : {
    address       = aws_eip.second[0].public_ip
    interface     = aws_network_interface.second[0].id
    group         = aws_autoscaling_group.second[0].name
    key_parameter = var.second_hub_key_parameter
  }
}
